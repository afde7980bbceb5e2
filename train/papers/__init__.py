"""Markets of papers that no other command needs, and what is computed in them: `neuralmm replicate`."""
