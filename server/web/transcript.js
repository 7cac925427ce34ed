// The transcript: blocks of text, one for each recording or time at the microphone, cut into paragraphs at long pauses.
// Times of a block count from its own beginning; on the page they go on from block to block.

import {element} from "./dom.js";

const PAUSE_MS = 1200; // silence that begins a paragraph
const LONG_PARAGRAPH = 600; // characters; the next segment begins another one
const TOKEN = /\s*(?:[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[^\s\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]+)/gu;

export class Block {
  constructor({name, text = "", segments = [], starts = [], durationMs = 0}) {
    Object.assign(this, {name, text, stable: text.length, segments, starts, durationMs});
    Object.assign(this, {begunAt: -1, countedSegments: 0, countedCharacters: 0}); // of segments, up to the open one
  }

  // text: all of the block so far, of which the first `stable` characters are final. openedMs: where the open segment begins at the
  // earliest, in silence or with its first word.
  update(text, stable, segments, openedMs) {
    Object.assign(this, {segments, durationMs: Math.max(this.durationMs, openedMs, segments.at(-1)?.end_ms ?? 0)});
    for (; this.countedSegments < segments.length; this.countedSegments++) {
      const segment = segments[this.countedSegments];
      this.begin(this.countedCharacters, segment.start_ms);
      this.countedCharacters += segment.text.length + 1;
    }
    if (this.countedCharacters < text.length) this.begin(this.countedCharacters, openedMs);
    this.text = text;
    this.stable = Math.max(Math.min(this.stable, text.length), stable);
  }

  // A segment begins at this character. Whether it begins a paragraph is decided once, so that no word jumps to another line later.
  begin(at, startMs) {
    const paragraph = this.starts.at(-1);
    if (at <= this.begunAt) return at === paragraph?.at && Object.assign(paragraph, {startMs}); // known better when it is closed
    this.begunAt = at;
    const before = this.segments.findLast((segment) => segment.end_ms <= startMs);
    const isPause = before && startMs - before.end_ms >= PAUSE_MS;
    if (!paragraph || isPause || at - paragraph.at > LONG_PARAGRAPH) this.starts.push({at, startMs});
  }

  get paragraphs() {
    return this.starts.map(({at, startMs}, index) => ({at, startMs, end: this.starts[index + 1]?.at ?? this.text.length}));
  }

  textOf({at, end}) {
    return this.text.slice(at, end).trim();
  }

  get saved() {
    const {name, text, segments, starts, durationMs} = this;
    return {name, text, segments, starts, durationMs};
  }
}

// Shows one block. Each word has an element of its own, which becomes black where it is: nothing on the page moves while words come.
// Paragraphs that can no longer change are left alone, so that the tenth hour costs no more than the first minute.
export class BlockView {
  tokens = []; // of the paragraphs that may change
  paragraphs = [];
  doneCount = 0;
  offsetMs = -1;

  constructor(block, onCopy) {
    Object.assign(this, {block, onCopy});
    this.element = element("article", {className: "block"});
    this.element.append(element("h2", {textContent: block.name}));
  }

  show(offsetMs) {
    const {paragraphs, stable, text} = this.block, first = offsetMs === this.offsetMs ? this.doneCount : 0;
    this.offsetMs = offsetMs;
    for (let index = first; index < paragraphs.length; index++) this.label(index, offsetMs + paragraphs[index].startMs);
    this.showTokens(paragraphs.flatMap((paragraph, index) => (index < this.doneCount ? [] : tokensOf(text, paragraph, index))), stable);
    while (this.doneCount < paragraphs.length - 1 && paragraphs[this.doneCount].end <= stable) this.doneCount++;
    this.tokens = this.tokens.filter((token) => token.paragraph >= this.doneCount);
  }

  showTokens(tokens, stable) {
    let same = 0;
    while (same < tokens.length && same < this.tokens.length && isSame(tokens[same], this.tokens[same])) same++;
    for (const token of this.tokens.splice(same)) token.node.remove();
    for (const token of tokens.slice(same)) this.append(token);
    for (const token of this.tokens) token.node.classList.toggle("moving", token.end > stable);
  }

  label(index, ms) {
    const paragraph = (this.paragraphs[index] ??= this.addParagraph(index));
    const button = paragraph.firstChild, time = clock(ms);
    if (button.textContent === time) return;
    button.textContent = time;
    button.setAttribute("aria-label", `Copy the paragraph at ${time}`);
  }

  addParagraph(index) {
    const paragraph = element("p"), button = element("button", {className: "time", title: "Copy this paragraph"});
    button.onclick = () => this.onCopy(this.block.textOf(this.block.paragraphs[index]));
    paragraph.append(button);
    this.element.append(paragraph);
    return paragraph;
  }

  append(token) {
    token.node = element("span", {textContent: token.text, className: "moving"});
    this.paragraphs[token.paragraph].append(token.node);
    this.tokens.push(token);
  }
}

function tokensOf(text, {at, end}, paragraph) {
  return [...text.slice(at, end).matchAll(TOKEN)].map((match) => ({text: match[0], end: at + match.index + match[0].length, paragraph}));
}

function isSame(first, second) {
  return first.text === second.text && first.end === second.end && first.paragraph === second.paragraph;
}

export class Transcript {
  blocks = [];
  views = new Map();

  // box: the element to show it in. onChange: called when the text has changed, with the text that became final.
  constructor(box, {onCopy, onChange}) {
    Object.assign(this, {box, onCopy, onChange, announced: new Map()});
  }

  add(block, at = this.blocks.length) {
    const view = new BlockView(block, this.onCopy);
    this.box.insertBefore(view.element, this.box.children[at] ?? null);
    this.blocks.splice(at, 0, block);
    this.views.set(block, view);
    this.announced.set(block, block.stable);
    this.show();
    return view;
  }

  // Returns what restore() takes.
  remove(block) {
    const at = this.blocks.indexOf(block);
    this.blocks.splice(at, 1);
    this.views.get(block).element.remove();
    this.views.delete(block);
    this.announced.delete(block);
    this.show();
    return {at, ...block.saved};
  }

  show() {
    let offsetMs = 0, added = "";
    for (const block of this.blocks) {
      this.views.get(block).show(offsetMs);
      offsetMs += block.durationMs;
      added += block.text.slice(this.announced.get(block), block.stable);
      this.announced.set(block, Math.max(this.announced.get(block), block.stable));
    }
    this.onChange(added.trim());
  }

  restore(saved) {
    for (const each of saved) this.add(new Block(each), each.at);
  }

  get hasText() {
    return this.blocks.some((block) => block.text);
  }

  get saved() {
    return this.blocks.filter((block) => block.text).map((block) => block.saved);
  }

  get text() {
    return this.blocks.flatMap((block) => block.paragraphs.map((paragraph) => block.textOf(paragraph))).join("\n\n");
  }

  // Of all blocks, on one clock.
  get segments() {
    let offsetMs = 0;
    return this.blocks.flatMap((block) => {
      const moved = block.segments.map((segment) => later(segment, offsetMs));
      offsetMs += block.durationMs;
      return moved;
    });
  }
}

function later(segment, ms) {
  const shifted = (each) => ({...each, start_ms: each.start_ms + ms, end_ms: each.end_ms + ms});
  return {...shifted(segment), ...(segment.words && {words: segment.words.map(shifted)})};
}

export function clock(ms) {
  const seconds = Math.floor(ms / 1000), two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}
