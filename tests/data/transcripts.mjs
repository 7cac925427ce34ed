// The JavaScript client's transcripts: node transcripts.mjs CLIENT CASES.json; prints what came of each case, and how it tries again.

import {readFileSync} from "node:fs";

const [client, cases] = process.argv.slice(2);
const {Transcript, PASSING, SOONEST_MS, LATEST_MS, MOST_VAIN} = await import(client);
const found = JSON.parse(readFileSync(cases)).map(({messages}) => {
  const transcript = new Transcript();
  for (const message of messages) message.op === "go on" ? transcript.goOn() : transcript.take(message);
  const {text, stableText, segments, closedMs, receivedMs} = transcript;
  return {text, stable_text: stableText, segments, closed_ms: closedMs, received_ms: receivedMs};
});
console.log(JSON.stringify({found, passing: PASSING.toSorted(), soonest_ms: SOONEST_MS, latest_ms: LATEST_MS, most_vain: MOST_VAIN}));
