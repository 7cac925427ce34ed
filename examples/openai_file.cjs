// A file with OpenAI's SDK for Node, text as it comes: npm install openai && node examples/openai_file.cjs [FILE]
const fs = require("fs");
const OpenAI = require("openai").default;

const client = new OpenAI({baseURL: `http://${process.env.SERVER ?? "localhost:8000"}/v1`, apiKey: "any"});

(async () => {
  const file = fs.createReadStream(process.argv[2] ?? "samples/short.wav");
  const events = await client.audio.transcriptions.create({file, model: "moonshine-base", stream: true});
  for await (const event of events) if (event.delta) process.stdout.write(event.delta);
  console.log();
})();
