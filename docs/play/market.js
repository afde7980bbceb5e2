// The market `brownian`, a desk on it, and the network of a bundle, as `mmenv` and `policies` have them in Python.
// tests/test_play.py holds each of them against the original.

export const HORIZON = 300, LIMIT = 10;
const ARRIVAL = 1 - Math.exp(-0.5), FILL_DECAY = 1, VOLATILITY = 1; // of a step of one second
const INVENTORY_PENALTY = 0.01, TERMINAL_PENALTY = 0.1, LOSS_LIMIT = 500;
const MAX_HALF_SPREAD = 8, MAX_SKEW = 8, MAX_DISTANCE = 8;

const clip = (x, low, high) => Math.min(Math.max(x, low), high);

// Mulberry32: the same market again for the same seed.
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// What happens in a step whoever quotes: how far the orders of others reach (-1: none), and the move of the mid.
export function drawStep(random) {
  const order = () => (random() < ARRIVAL ? -Math.log(1 - random()) / FILL_DECAY : -1);
  const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return { buy: order(), sell: order(), move: VOLATILITY * normal };
}

// Distances of ask and bid from the mid, of an action in [-1, 1]^2.
export function distances([spread, skew]) {
  const half = ((clip(spread, -1, 1) + 1) / 2) * MAX_HALF_SPREAD, lean = clip(skew, -1, 1) * MAX_SKEW;
  return [clip(half + lean, 0, MAX_DISTANCE), clip(half - lean, 0, MAX_DISTANCE)];
}

// One account: what it holds and has earned, and what it observes.
export class Desk {
  constructor() {
    Object.assign(this, { age: 0, position: 0, wealth: 0, value: 0, entry: 0, held: 0, fills: 0, gap: 0 });
    this.steps = []; // of the whole episode
    this.mid = 0;
  }

  // Orders meet the quotes, then the mid moves.
  step(ask, bid, { buy, sell, move }) {
    const sold = buy >= ask && this.position > -LIMIT ? 1 : 0;
    const bought = sell >= bid && this.position < LIMIT ? 1 : 0;
    this.account(sold, bought, ask, bid, { buys: buy >= 0 ? 1 : 0, sells: sell >= 0 ? 1 : 0, move });
    return { sold, bought };
  }

  account(sold, bought, ask, bid, { buys, sells, move }) {
    const net = bought - sold, before = this.position, after = before + net;
    const profit = sold * ask + bought * bid + after * move;
    const over = this.age + 1 >= HORIZON;
    this.wealth += profit;
    this.value += profit - (INVENTORY_PENALTY + (over ? TERMINAL_PENALTY : 0)) * after * after;
    this.fills += sold + bought;
    // Average entry: how far the mid stands above it.
    const sameSide = before * after > 0, grew = Math.abs(after) > Math.abs(before);
    const fresh = net > 0 ? bid : -ask;
    const mixed = (Math.abs(before) * this.entry + Math.abs(net) * fresh) / Math.max(Math.abs(after), 1);
    this.entry = after === 0 ? 0 : (sameSide ? (grew ? mixed : this.entry) : fresh) + move;
    this.held = sameSide ? this.held + 1 : 0;
    this.gap = buys + sells > 0 ? 0 : this.gap + 1;
    this.steps.push({ buys, sells, move, value: (buys + sells) * this.mid });
    this.mid += move;
    this.position = after;
    this.age += 1;
  }

  // The entries of the feature groups order_flow, trade_book, inventory and clock.
  observe() {
    const sum = (rows, what) => rows.reduce((total, row) => total + what(row), 0);
    const lots = (row) => row.buys + row.sells;
    const started = this.age > 0, last = this.steps.at(-1) ?? { buys: 0, sells: 0, move: 0 };
    const recent = this.steps.slice(-20), n = Math.max(recent.length, 1);
    const mean = sum(recent, (row) => row.move) / n;
    const square = sum(recent, (row) => row.move ** 2) / n, volatility = Math.sqrt(square);
    const traded = sum(recent, lots);
    const vwapGap = (this.mid * traded - sum(recent, (row) => row.value)) / Math.max(traded, 1);
    const held = this.position / LIMIT;
    const risk = (Math.abs(this.position) * volatility * Math.sqrt(HORIZON)) / LOSS_LIMIT;
    return Float32Array.of(
      (last.buys - last.sells) / Math.max(lots(last), 1),
      clip(last.move, -10, 10),
      clip(mean * Math.sqrt(20), -10, 10),
      Math.min(Math.sqrt(Math.max(square - mean * mean, 0)), 10),
      started && traded > 0 ? clip(vwapGap / Math.sqrt(20), -10, 10) : 0,
      0, // there is no book: no spread
      0,
      Math.min(lots(last), 10),
      lots(last) > 0 ? 1 : 0, // all trades are of one lot
      started ? Math.min(this.gap / 10, 10) : 0,
      0,
      Math.min(volatility, 10),
      held,
      clip(held * this.entry, -10, 10),
      this.held / HORIZON,
      clip(this.entry, -10, 10),
      Math.min(risk, 10),
      (HORIZON - this.age) / HORIZON,
    );
  }
}

// A network as `policies.network.layers` describes it: LSTM and dense layers in a row.
export class Network {
  constructor({ layers }) {
    this.layers = layers.map((layer) => ({
      ...layer,
      arrays: Object.fromEntries(Object.entries(layer.arrays).map(([name, text]) => [name, floats(text)])),
      hidden: new Float32Array(layer.units),
      cell: new Float32Array(layer.units),
    }));
  }

  act(observation) {
    let x = observation;
    for (const layer of this.layers) x = layer.kind === "lstm" ? lstm(layer, x) : dense(layer, x);
    return Array.from(x, (a) => clip(a, -1, 1));
  }
}

function floats(text) {
  return new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

function product(matrix, x, bias) {
  return Float32Array.from(bias, (b, row) => {
    let total = b;
    for (let i = 0; i < x.length; i++) total += matrix[row * x.length + i] * x[i];
    return total;
  });
}

function dense({ arrays, activation }, x) {
  const y = product(arrays.weight, x, arrays.bias);
  return activation === "tanh" ? y.map(Math.tanh) : y;
}

// Gates in torch's order: input, forget, cell, output.
function lstm({ arrays, units, hidden, cell }, x) {
  const given = product(arrays.weight_ih, x, arrays.bias_ih);
  const remembered = product(arrays.weight_hh, hidden, arrays.bias_hh);
  const gate = (k, i) => given[k * units + i] + remembered[k * units + i];
  const sigmoid = (z) => 1 / (1 + Math.exp(-z));
  for (let i = 0; i < units; i++) {
    cell[i] = sigmoid(gate(1, i)) * cell[i] + sigmoid(gate(0, i)) * Math.tanh(gate(2, i));
    hidden[i] = sigmoid(gate(3, i)) * Math.tanh(cell[i]);
  }
  return hidden;
}
