// Recordings: uploaded to OpenAI's REST API, one after the other, with their progress.

const FIELDS = [["model", "default"], ["response_format", "verbose_json"], ["timestamp_granularities[]", "word"], ["timestamp_granularities[]", "segment"], ["stream", "true"]];

// onProgress({part, doneMs, totalMs}): part of the upload that is sent, 0 to 1; then how much is transcribed, of how much (null where
// the browser does not know). onEvent: each event of the server. Returns {done, stop}; done rejects with an Error that has its code.
export function transcribeFile(server, headers, file, keyterms, {onProgress, onEvent}) {
  const request = new XMLHttpRequest(), parser = new EventParser(onEvent);
  let totalMs = null;
  durationOf(file).then((ms) => (totalMs = ms));
  const done = new Promise((resolve, reject) => {
    request.upload.onprogress = ({loaded, total}) => onProgress({part: loaded / total, doneMs: 0, totalMs});
    request.upload.onload = () => onProgress({part: 1, doneMs: 0, totalMs});
    request.onprogress = () => {
      if (request.status !== 200) return;
      const doneMs = parser.read(request.responseText);
      onProgress({part: 1, doneMs, totalMs});
    };
    request.onload = () => {
      if (request.status !== 200) return reject(failureOf(request));
      parser.read(request.responseText);
      parser.error ? reject(Object.assign(new Error(parser.error.message), {code: parser.error.code})) : resolve();
    };
    request.onerror = () => reject(new Error("Cannot reach the server. Try again when it is back."));
    request.onabort = () => reject(Object.assign(new Error("Stopped."), {code: "stopped"}));
  });
  request.open("POST", `${server}/v1/audio/transcriptions`);
  for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
  request.send(formOf(file, keyterms));
  return {done, stop: () => request.abort()};
}

function formOf(file, keyterms) {
  const form = new FormData();
  for (const term of keyterms) form.append("keywords[]", term);
  for (const [name, value] of FIELDS) form.append(name, value);
  form.append("file", file);
  return form;
}

// Server-sent events of a text that grows.
class EventParser {
  position = 0;
  doneMs = 0;
  error = null;

  constructor(onEvent) {
    this.onEvent = onEvent;
  }

  // Returns how much is transcribed, in milliseconds.
  read(text) {
    for (let end; (end = text.indexOf("\n\n", this.position)) >= 0; this.position = end + 2) this.take(JSON.parse(text.slice(this.position + "data: ".length, end)));
    return this.doneMs;
  }

  take(event) {
    if (event.error) this.error = event.error;
    else if (event.type === "transcript.text.delta") this.doneMs = Math.max(this.doneMs, 1000 * (event.segments.at(-1)?.end ?? 0));
    this.onEvent(event);
  }
}

function failureOf(request) {
  try {
    const {code, message} = JSON.parse(request.responseText).error;
    return Object.assign(new Error(message), {code});
  } catch {
    return new Error(`The server answered with HTTP ${request.status}.`);
  }
}

// Milliseconds, or null where the browser cannot tell.
function durationOf(file) {
  const url = URL.createObjectURL(file), audio = new Audio();
  const found = new Promise((resolve) => {
    audio.onloadedmetadata = () => resolve(Number.isFinite(audio.duration) ? 1000 * audio.duration : null);
    audio.onerror = () => resolve(null);
  });
  audio.preload = "metadata";
  audio.src = url;
  return found.finally(() => URL.revokeObjectURL(url));
}

// Segments of one event, with their words, in milliseconds.
export function segmentsOf({segments, words}) {
  const ms = (seconds) => Math.round(1000 * seconds);
  return segments.map(({text, start, end}) => ({
    text, start_ms: ms(start), end_ms: ms(end),
    words: words.filter((word) => word.start >= start && word.start < end).map((word) => ({w: word.word, start_ms: ms(word.start), end_ms: ms(word.end)})),
  }));
}
