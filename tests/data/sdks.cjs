// OpenAI's and Deepgram's SDKs for Node, over TLS: node sdks.cjs HOST:PORT FILE.wav; prints what each of them heard.
const fs = require("fs");
const OpenAI = require("openai").default;
const {OpenAIRealtimeWS} = require("openai/realtime/ws");
const {DeepgramClient} = require("@deepgram/sdk");

const [server, path] = process.argv.slice(2);
const pcm = fs.readFileSync(path).subarray(44);
const client = new OpenAI({baseURL: `https://${server}/v1`, apiKey: "any", maxRetries: 0});

async function rest() {
  const file = fs.createReadStream(path);
  const options = {file, model: "whisper-1", response_format: "verbose_json", timestamp_granularities: ["word"]};
  return (await client.audio.transcriptions.create(options)).text;
}

async function events() {
  let text = "";
  for await (const event of await client.audio.transcriptions.create({file: fs.createReadStream(path), model: "whisper-1", stream: true}))
    text += event.delta ?? "";
  return text;
}

function realtime() {
  return new Promise((resolve, reject) => {
    const socket = new OpenAIRealtimeWS({model: "moonshine-base"}, client);
    const input = {format: {type: "audio/pcm", rate: 16000}, turn_detection: null};
    socket.on("error", reject);
    socket.on("session.created", () => socket.send({type: "session.update", session: {type: "transcription", audio: {input}}}));
    socket.on("session.updated", () => {
      socket.send({type: "input_audio_buffer.append", audio: pcm.toString("base64")});
      socket.send({type: "input_audio_buffer.commit"});
    });
    socket.on("conversation.item.input_audio_transcription.completed", event => {
      socket.close();
      resolve(event.transcript);
    });
  });
}

async function deepgram() {
  const https = `https://${server}`, wss = `wss://${server}`;
  const sdk = new DeepgramClient({apiKey: "any", environment: {base: https, production: wss, agent: wss, agentRest: https}});
  const socket = await sdk.listen.v1.connect({model: "nova-3", encoding: "linear16", sample_rate: 16000, endpointing: 300});
  const finals = [], closed = new Promise(resolve => socket.on("close", resolve));
  socket.on("message", message => {
    if (message.type === "Results" && message.is_final) finals.push(message.channel.alternatives[0].transcript);
    if (message.type === "Metadata") socket.close();
  });
  socket.connect();
  await socket.waitForOpen();
  for (let start = 0; start < pcm.length; start += 3200) socket.sendMedia(pcm.subarray(start, start + 3200));
  socket.sendCloseStream({type: "CloseStream"});
  await closed;
  return finals.filter(text => text).join(" ");
}

async function flux() {
  const https = `https://${server}`, wss = `wss://${server}`;
  const sdk = new DeepgramClient({apiKey: "any", environment: {base: https, production: wss, agent: wss, agentRest: https}});
  const socket = await sdk.listen.v2.connect({model: "flux-general-en", encoding: "linear16", sample_rate: 16000});
  const turns = [], closed = new Promise(resolve => socket.on("close", resolve));
  socket.on("message", message => {
    if (message.type === "TurnInfo" && message.event === "EndOfTurn") turns.push(message.transcript);
  });
  socket.connect();
  await socket.waitForOpen();
  for (let start = 0; start < pcm.length; start += 2560) socket.sendMedia(pcm.subarray(start, start + 2560));
  socket.sendCloseStream({type: "CloseStream"});
  await closed;
  return turns.join(" ");
}

(async () => {
  for (const run of [rest, events, realtime, deepgram, flux]) console.log(`${run.name}: ${await run()}`);
  process.exit(0);
})().catch(error => {
  console.error(error);
  process.exit(1);
});
