// The table of running sequences, and the letters that tie rows to lines of the plots.

/** Sequences that have a line of their own in the plots. */
export const N_LANES = 8;

const rows = document.getElementById("rows");
const shown = new Map();
/** Key of the sequence that holds each lane. */
const lanes = Array(N_LANES).fill(null);

const whole = (value) => (value === null ? "–" : value.toFixed(0));
const fine = (value) => (value === null ? "–" : value.toFixed(2));
const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(0)} %`);

/** What stands in the cells after the id, and whether it is a number. */
const CELLS = [
  [(row) => row.prompt_tokens, true],
  [(row) => row.emitted, true],
  [(row) => row.context, true],
  [(row) => row.planned, true],
  [(row) => (row.verified > 0 ? `${row.accepted} of ${row.verified}` : "–"), true],
  [(row) => share(row.acceptance_rate), true],
  [(row) => fine(row.kld), true],
  [(row) => fine(row.numbers.wvir ?? null), true],
  [(row) => whole(row.numbers.cap ?? null), true],
  [(row) => row.policy, false],
  [(row) => row.reason, false],
];

const keyOf = (row) => `${row.request}.${row.choice}`;

/** Letter of a lane. */
export const letterOf = (lane) => String.fromCharCode(65 + lane);

/** Shows what the feed says; returns the row of each lane, `null` for lanes without one. */
export function showSequences({ sequences, running }) {
  const present = new Map(sequences.map((row) => [keyOf(row), row]));
  assignLanes(present);
  for (const [key, node] of shown) {
    if (!present.has(key)) {
      node.remove();
      shown.delete(key);
    }
  }
  for (const [key, row] of present) {
    if (!shown.has(key)) {
      shown.set(key, newRow(row));
      rows.append(shown.get(key));
    }
    fill(shown.get(key), row, lanes.indexOf(key));
  }
  document.getElementById("no-rows").hidden = sequences.length > 0;
  const isPart = running > sequences.length && sequences.length > 0;
  document.getElementById("sequences-count").textContent =
    running === 0 ? "none" : isPart ? `${sequences.length} of ${running}` : `${running}`;
  return lanes.map((key) => present.get(key) ?? null);
}

/** A sequence keeps its lane while it runs; free ones go to those that came first. */
function assignLanes(present) {
  for (const [lane, key] of lanes.entries()) if (!present.has(key)) lanes[lane] = null;
  const waiting = [...present.keys()].filter((key) => !lanes.includes(key));
  for (const [lane, key] of lanes.entries()) if (key === null) lanes[lane] = waiting.shift() ?? null;
}

function newRow(row) {
  const node = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  const badge = document.createElement("span");
  badge.className = "lane";
  const id = document.createElement("span");
  id.textContent = row.choice > 0 ? keyOf(row) : String(row.request);
  head.append(badge, id);
  const cells = CELLS.map(([, isNumber]) => {
    const cell = document.createElement("td");
    cell.className = isNumber ? "number" : "word";
    return cell;
  });
  node.append(head, ...cells);
  return node;
}

function fill(node, row, lane) {
  const [head, ...cells] = node.children;
  const badge = head.firstElementChild;
  badge.dataset.lane = lane;
  badge.textContent = lane < 0 ? "" : letterOf(lane);
  for (const [i, [text]] of CELLS.entries()) {
    const value = String(text(row));
    if (cells[i].textContent !== value) cells[i].textContent = value;
  }
  const numbers = Object.entries(row.numbers).map(
    ([name, value]) => `${name} ${value === null ? "–" : Number(value.toPrecision(3))}`,
  );
  // Long ones are cut off.
  cells.at(-2).title = row.policy;
  cells.at(-1).title = numbers.join("\n");
}
