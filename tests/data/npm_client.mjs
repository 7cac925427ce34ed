// The npm package in Node: node npm_client.mjs ORIGIN FILE.wav; prints the final text and how it was carried.

import {readFileSync} from "node:fs";
import {MoonshineClient} from "moonshine-asr-client";

globalThis.WebSocket ??= (await import("ws")).WebSocket;
const [origin, file] = process.argv.slice(2);
const wav = readFileSync(file);
const samples = new Int16Array(wav.buffer.slice(wav.byteOffset + 44, wav.byteOffset + wav.length - (wav.length % 2)));
const client = new MoonshineClient({server: origin, sampleRate: 16000, transport: "websocket"});
let longest = "";
client.addEventListener("text", () => {
  if (!client.stableText.startsWith(longest)) throw new Error(`stable text changed: ${longest} became ${client.stableText}`);
  longest = client.stableText;
});
await client.connect();
for (let start = 0; start < samples.length; start += 1600) {
  client.send(samples.subarray(start, start + 1600));
  await new Promise((resolve) => setTimeout(resolve, 25));
}
const final = await client.close();
console.log(`${client.via}: ${final.text}`);
process.exit(0);
