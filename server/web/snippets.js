// The call that the developers' panel makes, as text to copy. o: {server, socket, key, model, language, silence, interims, terms, words,
// numerals, redact, profanity, fillers, channels}.

function query(...pairs) {
  const found = pairs.filter(([, value]) => value).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  return found.length ? `?${found.join("&")}` : "";
}

const bearer = (o) => (o.key ? ` -H "Authorization: Bearer ${o.key}"` : "");
const anyKey = (o) => o.key || "any";
const indent = (lines) => lines.map((line) => `    ${line}\n`).join("");

function deepgramQuery(o, ...more) {
  return query(...more, ["language", o.language], ["interim_results", o.interims ? "true" : ""], ["endpointing", o.silence], ...keyterms(o), ...deepgramText(o));
}

// Options of the text, by their names in the server's own protocol.
export function textOptions(o) {
  return {...(o.numerals && {numerals: true}), ...(o.redact && {redact: [o.redact]}), ...(o.profanity && {profanity_filter: true}), ...(o.fillers && {filler_words: false})};
}

const deepgramText = (o) => [...Object.entries(textOptions(o)).map(([name, value]) => [name, String(value)]), ["multichannel", o.channels ? "true" : ""]];
const python = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : list(value));
const pythonText = (o) => Object.entries(textOptions(o)).map(([name, value]) => `, ${name}=${python(value)}`).join("");

const keyterms = (o) => o.terms.map((term) => ["keyterm", term]);
const list = (terms) => `[${terms.map((term) => JSON.stringify(term)).join(", ")}]`;

const microphone = `const media = await navigator.mediaDevices.getUserMedia({audio: true});`;

const WAV = `import asyncio
import wave
`;

export const snippets = {
  rest: {
    curl: (o) => `curl${bearer(o)} \\
  -F file=@recording.wav \\
  -F model=${o.model} \\
${o.language ? `  -F language=${o.language} \\\n` : ""}${o.terms.map((term) => `  -F 'keywords[]=${term.replaceAll("'", "’")}' \\\n`).join("")}${o.channels ? "  -F multichannel=true \\\n" : ""}${o.words ? "  -F response_format=verbose_json -F 'timestamp_granularities[]=word' \\\n" : ""}  ${o.server}/v1/audio/transcriptions`,
    Python: (o) => `# pip install openai
from openai import OpenAI

client = OpenAI(base_url="${o.server}/v1", api_key="${anyKey(o)}")
with open("recording.wav", "rb") as file:
    transcription = client.audio.transcriptions.create(
        file=file,
        model="${o.model}",
${indent([...(o.language ? [`    language="${o.language}",`] : []), ...(o.terms.length ? [`    keywords=${list(o.terms)},`] : []), ...(o.channels ? ['    extra_body={"multichannel": "true"},'] : []), ...(o.words ? ['    response_format="verbose_json",', '    timestamp_granularities=["word"],'] : [])])}    )
print(transcription.text)
${o.words ? "for word in transcription.words:\n    print(word.start, word.end, word.word)\n" : ""}`,
    JavaScript: (o) => `// node call.mjs
import {openAsBlob} from "node:fs";

const form = new FormData();
form.append("file", await openAsBlob("recording.wav"), "recording.wav");
form.append("model", "${o.model}");
${o.language ? `form.append("language", "${o.language}");\n` : ""}${o.terms.map((term) => `form.append("keywords[]", ${JSON.stringify(term)});\n`).join("")}${o.channels ? 'form.append("multichannel", "true");\n' : ""}${o.words ? 'form.append("response_format", "verbose_json");\nform.append("timestamp_granularities[]", "word");\n' : ""}const response = await fetch("${o.server}/v1/audio/transcriptions", {
  method: "POST",
  body: form,${o.key ? `\n  headers: {Authorization: "Bearer ${o.key}"},` : ""}
});
console.log(await response.json());`,
  },
  native: {
    Python: (o) => `# needs the moonshine-asr package: pip install -e . in a checkout${o.silence ? "\n# turns: use the JavaScript client or another API" : ""}
import asyncio

from moonshine_client import StreamingClient, load


async def send(client, audio):
    for start in range(0, len(audio), 320):  # 20 ms at 16 kHz
        await client.send(audio[start : start + 320].tobytes())
        await asyncio.sleep(0.02)
    await client.close()


async def main():
    async with StreamingClient("${o.server}"${o.words ? ", words=True" : ""}${o.terms.length ? `, keyterms=${list(o.terms)}` : ""}${pythonText(o)}${o.key ? `, key="${o.key}"` : ""}) as client:
        sending = asyncio.create_task(send(client, load("recording.wav")))
        async for interim in client:
            print(interim["text"][: interim["stable"]], "|", interim["text"][interim["stable"] :])
        final = await client.outcome()
        print(final["text"])


asyncio.run(main())`,
    JavaScript: (o) => `// <script type="module">; a page of another origin must be named in ASR_CORS_ORIGINS
import {MoonshineClient} from "${o.server}/web/moonshine-client.js";

${microphone}
const context = new AudioContext();
await context.audioWorklet.addModule("${o.server}/web/capture.js");
const client = new MoonshineClient({
  server: "${o.server}",
  sampleRate: context.sampleRate,
  words: ${o.words},${o.silence ? `\n  silenceMs: ${o.silence},` : ""}${o.terms.length ? `\n  keyterms: ${list(o.terms)},` : ""}${Object.keys(textOptions(o)).length ? `\n  textOptions: ${JSON.stringify(textOptions(o))},` : ""}${o.key ? `\n  key: "${o.key}", // give a page of yours a token instead: POST /v1/tokens` : ""}
});
client.addEventListener("text", () => console.log(client.stableText, "|", client.movingText));
await client.connect();
const capture = new AudioWorkletNode(context, "capture");
capture.port.onmessage = ({data}) => client.send(data);
context.createMediaStreamSource(media).connect(capture);
// when the speaker has finished: const final = await client.close();`,
  },
  realtime: {
    Python: (o) => `# pip install "openai[realtime]"
import base64
${WAV}
from openai import AsyncOpenAI


async def send(connection, recording):
    while pcm := recording.readframes(recording.getframerate() // 20):
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
        await asyncio.sleep(0.05)
    await connection.input_audio_buffer.commit()


async def main():
    client = AsyncOpenAI(base_url="${o.server}/v1", api_key="${anyKey(o)}")
    with wave.open("recording.wav") as recording:
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            audio = {
                "format": {"type": "audio/pcm", "rate": recording.getframerate()},
                "transcription": {"model": "${o.model}"${o.language ? `, "language": "${o.language}"` : ""}${o.terms.length ? `, "keywords": ${list(o.terms)}` : ""}},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": ${o.silence || 500}},
            }
            await connection.session.update(session={"type": "transcription", "audio": {"input": audio}})
            sending = asyncio.create_task(send(connection, recording))
            async for event in connection:
                if event.type.endswith("transcription.delta"):
                    print(event.delta, end="", flush=True)
                if event.type.endswith("transcription.completed"):
                    print()
                if sending.done() and event.type.endswith(("transcription.completed", "error")):
                    return


asyncio.run(main())`,
    JavaScript: (o) => `// <script type="module">; a page of another origin must be named in ASR_CORS_ORIGINS
${microphone}
const connection = new RTCPeerConnection();
const events = connection.createDataChannel("oai-events");
events.onmessage = ({data}) => console.log(data);
events.onopen = () =>
  events.send(JSON.stringify({type: "session.update", session: {type: "transcription", audio: {input: {
    transcription: {model: "${o.model}"${o.language ? `, language: "${o.language}"` : ""}${o.terms.length ? `, keywords: ${list(o.terms)}` : ""}},
    turn_detection: {type: "server_vad", silence_duration_ms: ${o.silence || 500}},
  }}}}));
connection.addTrack(media.getAudioTracks()[0], media);
await connection.setLocalDescription();
while (connection.iceGatheringState !== "complete") await new Promise((resolve) => setTimeout(resolve, 50));
const response = await fetch("${o.server}/v1/realtime/calls", {
  method: "POST",
  headers: {"Content-Type": "application/sdp"${o.key ? `, Authorization: "Bearer ${o.key}"` : ""}},
  body: connection.localDescription.sdp,
});
await connection.setRemoteDescription({type: "answer", sdp: await response.text()});`,
  },
  deepgram: {
    curl: (o) => `curl${o.key ? ` -H "Authorization: Token ${o.key}"` : ""} \\
  -H "Content-Type: audio/wav" --data-binary @recording.wav \\
  "${o.server}/v1/listen${query(["language", o.language], ...keyterms(o), ...deepgramText(o))}"`,
    Python: (o) => `# pip install deepgram-sdk
${WAV}
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.events import EventType


async def main():
    environment = DeepgramClientEnvironment(
        base="${o.server}", production="${o.socket}", agent="${o.socket}", agent_rest="${o.server}"
    )
    client = AsyncDeepgramClient(api_key="${anyKey(o)}", environment=environment)
    with wave.open("recording.wav") as recording:
        options = {"model": "${o.model}", "encoding": "linear16", "sample_rate": recording.getframerate()}
${o.channels ? '        options |= {"multichannel": True, "channels": recording.getnchannels()}\n' : ""}        async with client.listen.v1.connect(**options${o.language ? `, language="${o.language}"` : ""}${o.interims ? ", interim_results=True" : ""}${o.silence ? `, endpointing=${o.silence}` : ""}${o.terms.length ? `, keyterm=${list(o.terms)}` : ""}${pythonText({...o, fillers: false})}${o.fillers ? ', request_options={"additional_query_parameters": {"filler_words": "false"}}' : ""}) as socket:
            socket.on(EventType.MESSAGE, show)
            listening = asyncio.create_task(socket.start_listening())
            while pcm := recording.readframes(recording.getframerate() // 20):
                await socket.send_media(pcm)
                await asyncio.sleep(0.05)
            await socket.send_close_stream()
            await listening


def show(message):
    if message.type == "Results":
        print(message.is_final, message.channel.alternatives[0].transcript)


asyncio.run(main())`,
    JavaScript: (o) => `// <script type="module">
${microphone}
const socket = new WebSocket("${o.socket}/v1/listen${deepgramQuery(o)}"${o.key ? `, ["token", "${o.key}"]` : ""});
socket.onmessage = ({data}) => console.log(JSON.parse(data).channel?.alternatives[0].transcript ?? data);
const recorder = new MediaRecorder(media);
recorder.ondataavailable = ({data}) => socket.send(data);
socket.onopen = () => recorder.start(250);
// when the speaker has finished: recorder.stop(), then socket.send('{"type": "CloseStream"}')`,
  },
};

export const deepgramStream = (o, rate) => `${o.socket}/v1/listen${deepgramQuery(o, ["encoding", "linear16"], ["sample_rate", rate])}`;
