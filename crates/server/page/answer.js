// One answer: its tokens by origin, what was rejected beside them, and what speculation gained.

const MEANINGS = {
  accepted: "guessed by the draft, kept by the target",
  recovered: "drawn by the target after it rejected the guess",
  bonus: "drawn by the target when all guesses were kept",
  plain: "drawn by the target without speculation",
};

/** Rejected branches listed for one step; a token tree may have more. */
const BRANCHES_SHOWN = 8;

const element = (name, className, text = "") => {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
};

/** White space that can be seen. */
const visible = (text) => text.replace(/ /g, "\u2423").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5");

const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

export class Answer {
  #steps = [];
  #decoder = new TextDecoder();
  #counts = { accepted: 0, recovered: 0, bonus: 0, plain: 0 };
  #began = null;
  #tokensAtBegin = 0;
  #seconds = 0;
  #isOver = false;

  constructor() {
    this.text = "";
    this.tokens = element("div", "tokens");
    this.tokens.setAttribute("role", "listbox");
    this.tokens.setAttribute("aria-label", "Tokens of the answer");
    this.figures = element("p", "figures");
    this.tokens.addEventListener("pointerover", (event) => this.#show(event.target));
    this.tokens.addEventListener("pointerout", hideTipSoon);
    this.tokens.addEventListener("focusin", (event) => this.#show(event.target));
    this.tokens.addEventListener("focusout", hideTip);
    this.tokens.addEventListener("keydown", (event) => this.#walk(event));
  }

  get n() {
    return Object.values(this.#counts).reduce((sum, count) => sum + count, 0);
  }

  /** Adds what one event brought: certain text, and tokens with their origins. */
  add(text, tokens) {
    this.text += text;
    for (const token of tokens) this.#push(token);
    const now = performance.now();
    if (this.#began === null && tokens.length > 0) {
      this.#began = now;
      this.#tokensAtBegin = this.n;
    }
    if (this.#began !== null) this.#seconds = (now - this.#began) / 1000;
    this.#showFigures();
  }

  /** Ends it; `note` says why, where that needs to be said. */
  end(note = "") {
    this.#isOver = true;
    this.#showFigures();
    if (note) this.figures.append(element("span", "note", note));
  }

  #push(token) {
    let step = this.#steps.at(-1);
    if (!step || step.isOver) {
      step = { tokens: [], nodes: [], isOver: false };
      this.#steps.push(step);
    }
    // A step ends with the token that the target drew itself.
    step.isOver = token.origin !== "accepted";
    step.tokens.push(token);
    this.#counts[token.origin] += 1;
    const isSpecial = token.bytes.length === 0;
    const text = this.#decoder.decode(Uint8Array.from(token.bytes), { stream: true });
    const node = element("span", `token ${token.origin}`, isSpecial ? "end" : text);
    node.classList.toggle("special", isSpecial);
    node.classList.toggle("first", step.tokens.length === 1);
    node.classList.toggle("last", step.isOver);
    node.setAttribute("role", "option");
    const label = isSpecial ? "end of text" : visible(text);
    node.setAttribute("aria-label", `${label}, ${token.origin}`);
    node.setAttribute("aria-describedby", "tip");
    node.tabIndex = this.tokens.childElementCount === 0 ? 0 : -1;
    node.step = step;
    node.token = { ...token, label };
    step.nodes.push(node);
    this.tokens.append(node);
  }

  #showFigures() {
    const { accepted, recovered, bonus, plain } = this.#counts;
    const after = this.n - this.#tokensAtBegin;
    const figures = [plural(this.n, "token")];
    if (after > 0 && this.#seconds > 0) figures.push(`${(after / this.#seconds).toFixed(0)} tokens/s`);
    if (this.#steps.length > 0) figures.push(`${(this.n / this.#steps.length).toFixed(2)} emitted per step`);
    figures.push(
      ...[
        [accepted, "accepted"],
        [recovered, "recovered"],
        [bonus, "bonus"],
        [plain, "plain"],
      ]
        .filter(([count]) => count > 0)
        .map(([count, name]) => `${count} ${name}`),
    );
    this.figures.replaceChildren(...figures.map((text) => element("span", "", text)));
    this.figures.dataset.over = this.#isOver;
  }

  #show(target) {
    const node = target.closest?.(".token");
    if (!node) return;
    hideTip();
    for (const other of node.step.nodes) other.classList.add("same-step");
    tip.replaceChildren(...explanation(node));
    tip.hidden = false;
    shown = node;
    place();
  }

  #walk(event) {
    const nodes = [...this.tokens.children];
    const at = nodes.indexOf(event.target);
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: this.#below(nodes, at, 1),
      ArrowUp: this.#below(nodes, at, -1),
      Home: 0,
      End: nodes.length - 1,
    }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const next = nodes[Math.max(0, Math.min(nodes.length - 1, to))];
    for (const node of nodes) node.tabIndex = node === next ? 0 : -1;
    next.focus();
  }

  /** Index of the token nearest to `at` in the next line that has one; `direction` is 1 or -1. */
  #below(nodes, at, direction) {
    const from = nodes[at]?.getBoundingClientRect();
    if (!from) return at;
    let best = at;
    let line = null;
    let distance = Infinity;
    for (let i = at + direction; i >= 0 && i < nodes.length; i += direction) {
      const to = nodes[i].getBoundingClientRect();
      if (Math.abs(to.top - from.top) < from.height / 2) continue;
      line ??= to.top;
      if (Math.abs(to.top - line) > from.height / 2) break;
      if (Math.abs(to.left - from.left) < distance) [best, distance] = [i, Math.abs(to.left - from.left)];
    }
    return best;
  }
}

/** What there is to say of a token and its step. */
function explanation(node) {
  const { token, step } = node;
  const head = element("p", "tip-head");
  head.append(element("code", "", token.label), element("strong", "", token.origin));
  const parts = [head, element("p", "", MEANINGS[token.origin])];
  const branches = step.tokens.flatMap((of) => of.rejected);
  if (branches.length > 0) {
    parts.push(
      element(
        "p",
        "tip-label",
        branches.length === 1 ? "rejected guess of this step" : "rejected guesses of this step",
      ),
    );
    const list = element("ul", "rejected");
    for (const branch of branches.slice(0, BRANCHES_SHOWN)) {
      const item = element("li", "");
      item.append(...branch.map((text) => element("del", "", visible(text) || "end of text")));
      list.append(item);
    }
    parts.push(list);
    if (branches.length > BRANCHES_SHOWN)
      parts.push(element("p", "", `and ${branches.length - BRANCHES_SHOWN} more`));
  }
  const accepted = step.tokens.filter((of) => of.origin === "accepted").length;
  if (token.origin !== "plain") {
    parts.push(
      element("p", "muted", `this step emitted ${plural(step.tokens.length, "token")}, ${accepted} of them drafted`),
    );
  }
  return parts;
}

const tip = document.getElementById("tip");
/** The token that the tip explains. */
let shown = null;
let hiding = 0;

/** Space around the tip, and between it and its token, pixels. */
const MARGIN = 8;
const GAP = 4;

/** Over the conversation, where it hides no heading; beyond it only where there is no room. */
function place() {
  const [box] = shown.getClientRects();
  if (!box) return;
  const view = { left: 0, top: 0, right: document.documentElement.clientWidth, bottom: innerHeight };
  const around = shown.closest(".conversation").getBoundingClientRect();
  const areas = [common(view, around), view];
  const left = Math.max(
    view.left + MARGIN,
    Math.min(box.left, areas[0].right - tip.offsetWidth, view.right - tip.offsetWidth - MARGIN),
  );
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${topOf(box, areas) + scrollY}px`;
}

const common = (a, b) => ({
  left: Math.max(a.left, b.left),
  top: Math.max(a.top, b.top),
  right: Math.min(a.right, b.right),
  bottom: Math.min(a.bottom, b.bottom),
});

/** Below the token or above it, in the first area that has room. */
function topOf(box, areas) {
  const tops = [box.bottom + GAP, box.top - tip.offsetHeight - GAP];
  for (const { top, bottom } of areas) {
    const found = tops.find((at) => at >= top && at + tip.offsetHeight <= bottom);
    if (found !== undefined) return found;
  }
  const { top, bottom } = areas.at(-1);
  return Math.max(top, Math.min(tops[0], bottom - tip.offsetHeight));
}

function hideTip() {
  clearTimeout(hiding);
  tip.hidden = true;
  for (const node of shown?.step.nodes ?? []) node.classList.remove("same-step");
  shown = null;
}

/** Leaves time to move onto the tip itself, which then stays. */
function hideTipSoon() {
  clearTimeout(hiding);
  hiding = setTimeout(hideTip, 200);
}

tip.addEventListener("pointerenter", () => clearTimeout(hiding));
tip.addEventListener("pointerleave", hideTip);
document.addEventListener("scroll", () => (shown && shown === document.activeElement ? place() : hideTip()), {
  capture: true,
  passive: true,
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
