// The page docs/play.md: the reader, the network and the optimum quote on the same orders.

import { Desk, HORIZON, LIMIT, Network, distances, drawStep, generator } from "./market.js";

const COLOURS = { you: "#e53935", network: "#3949ab", optimum: "#43a047" };
const NAMES = { you: "you", network: "the network", optimum: "the optimum" };
const SHOWN_STEPS = 80, STEP_MS = 200;
const element = (id) => document.getElementById(id);

const data = await (await fetch(new URL("policy.json", import.meta.url))).json();
const optimum = new Float32Array(Uint8Array.from(atob(data.optimum), (c) => c.charCodeAt(0)).buffer);

const players = {
  you: () => {
    const half = Number(element("spread").value), skew = Number(element("skew").value);
    return [Math.max(half + skew, 0), Math.max(half - skew, 0)];
  },
  network: (desk) => distances(game.network.act(desk.observe())),
  optimum: (desk) => {
    const at = 2 * ((2 * LIMIT + 1) * desk.age + desk.position + LIMIT);
    return [optimum[at], optimum[at + 1]];
  },
};

let game, timer;

function begin() {
  const seed = Number(new URLSearchParams(location.search).get("seed")) || Math.floor(Math.random() * 2 ** 31);
  const desks = Object.fromEntries(Object.keys(players).map((name) => [name, new Desk()]));
  game = { random: generator(seed), network: new Network(data), desks, mids: [0], past: { you: [], network: [], optimum: [] } };
  quote();
  draw();
}

// Everyone decides on what was seen so far.
function quote() {
  game.quotes = Object.fromEntries(Object.entries(players).map(([name, policy]) => [name, policy(game.desks[name])]));
}

function step() {
  game.quotes.you = players.you(); // the sliders may have moved since
  const drawn = drawStep(game.random), mid = game.mids.at(-1);
  for (const [name, desk] of Object.entries(game.desks)) {
    const [ask, bid] = game.quotes[name];
    const asked = desk.position > -LIMIT, wanted = desk.position < LIMIT;
    const { sold, bought } = desk.step(ask, bid, drawn);
    const row = { ask: asked ? mid + ask : NaN, bid: wanted ? mid - bid : NaN, sold, bought, value: desk.value };
    game.past[name].push(row);
  }
  game.mids.push(mid + drawn.move);
  if (game.desks.you.age < HORIZON) quote();
  else stop();
  draw();
}

function start() {
  if (game.desks.you.age >= HORIZON) begin();
  timer = setInterval(step, STEP_MS);
  element("run").textContent = "Pause";
}

function stop() {
  clearInterval(timer);
  timer = undefined;
  element("run").textContent = game.desks.you.age >= HORIZON ? "Once more" : "Go on";
}

// Pictures ---------------------------------------------------------------------------------------------------

function canvas(id) {
  const node = element(id), scale = window.devicePixelRatio || 1;
  node.width = node.clientWidth * scale;
  node.height = node.clientHeight * scale;
  const pen = node.getContext("2d");
  pen.scale(scale, scale);
  pen.font = "11px sans-serif";
  pen.fillStyle = pen.strokeStyle = getComputedStyle(node).color;
  return { pen, width: node.clientWidth, height: node.clientHeight };
}

// Axes with three marks on the left; gives the functions from a step and a value to the picture.
function axes({ pen, width, height }, first, last, low, high, title) {
  const left = 38, top = 16, bottom = height - 4;
  const x = (t) => left + ((t - first) / Math.max(last - first, 1)) * (width - left - 8);
  const y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
  pen.fillText(title, left, 11);
  pen.globalAlpha = 0.25;
  pen.beginPath();
  for (const v of [low, (low + high) / 2, high]) {
    pen.moveTo(left, y(v));
    pen.lineTo(width - 8, y(v));
  }
  pen.stroke();
  pen.globalAlpha = 1;
  for (const v of [low, (low + high) / 2, high]) pen.fillText(v.toFixed(1), 2, Math.max(y(v) - 2, 22));
  return { x, y };
}

function line(pen, colour, points, dashed = false) {
  pen.strokeStyle = colour;
  pen.setLineDash(dashed ? [4, 3] : []);
  pen.beginPath();
  let down = false;
  for (const [x, y] of points) {
    if (Number.isFinite(y)) down ? pen.lineTo(x, y) : pen.moveTo(x, y);
    down = Number.isFinite(y);
  }
  pen.stroke();
  pen.setLineDash([]);
}

function dot(pen, colour, x, y) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(x, y, 3.5, 0, 7);
  pen.fill();
}

function drawPrices() {
  const picture = canvas("prices"), { pen } = picture, now = game.mids.length - 1, first = Math.max(now - SHOWN_STEPS, 0);
  const name = element("shown").value, rows = game.past[name].slice(first), [ask, bid] = game.quotes[name];
  const mids = game.mids.slice(first);
  const seen = [...mids, ...rows.flatMap((row) => [row.ask, row.bid]), mids.at(-1) + ask, mids.at(-1) - bid].filter(Number.isFinite);
  const low = Math.min(...seen) - 0.5, high = Math.max(...seen) + 0.5;
  const title = `mid-price; ask and bid of ${NAMES[name]}; dots are fills`;
  const { x, y } = axes(picture, first, Math.max(now + 1, SHOWN_STEPS), low, high, title);
  const current = { ask: mids.at(-1) + ask, bid: mids.at(-1) - bid };
  line(pen, getComputedStyle(element("prices")).color, mids.map((mid, i) => [x(first + i), y(mid)]));
  for (const side of ["ask", "bid"]) {
    const colour = side === "ask" ? "#e53935" : "#1e88e5";
    line(pen, colour, [...rows, current, current].map((row, i) => [x(first + i), y(row[side])]), true);
    rows.forEach((row, i) => (side === "ask" ? row.sold : row.bought) && dot(pen, colour, x(first + i), y(row[side])));
  }
}

function drawValues() {
  const picture = canvas("values"), all = Object.values(game.past).flat().map((row) => row.value);
  const low = Math.min(0, ...all), high = Math.max(10, ...all);
  const { x, y } = axes(picture, 0, HORIZON, low, high, "value: you red, the network blue, the optimum green");
  for (const [name, rows] of Object.entries(game.past)) {
    line(picture.pen, COLOURS[name], [[x(0), y(0)], ...rows.map((row, i) => [x(i + 1), y(row.value)])], name === "optimum");
  }
}

function draw() {
  element("spread-text").textContent = Number(element("spread").value).toFixed(2);
  element("skew-text").textContent = Number(element("skew").value).toFixed(2);
  drawPrices();
  drawValues();
  element("accounts").replaceChildren(
    ...Object.entries(game.desks).map(([name, desk]) => {
      const row = document.createElement("tr");
      const cells = [NAMES[name], desk.value.toFixed(1), desk.position, desk.fills, game.quotes[name].map((d) => d.toFixed(2)).join(", ")];
      row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      return row;
    }),
  );
  const { you, network, optimum: best } = game.desks;
  element("verdict").textContent =
    you.age < HORIZON ? `${HORIZON - you.age} seconds left.`
    : `You made ${you.value.toFixed(1)}, the network ${network.value.toFixed(1)}, the optimum ${best.value.toFixed(1)}. One market is luck; the leaderboard plays 4,096.`;
}

element("run").addEventListener("click", () => (timer === undefined ? start() : stop()));
element("again").addEventListener("click", () => {
  stop();
  begin();
  element("run").textContent = "Start";
});
for (const id of ["spread", "skew", "shown"]) element(id).addEventListener("input", draw);
window.addEventListener("resize", draw);
begin();
