// Lengths of the JavaScript client's messages: node messages.mjs CLIENT FRAME_MS; sends 20 ms at a time, and prints what went out.

const [module, frameMs] = process.argv.slice(2);
const {MoonshineClient} = await import(module);
const client = new MoonshineClient({server: "http://localhost"});
const sent = [];
const wire = {unsentBytes: () => 0, send: (data) => sent.push(typeof data === "string" ? JSON.parse(data).op : data.length), close: () => {}};
client.session = {wire, isReady: true, frameMs: Number(frameMs), receivedAt: performance.now(), stop: () => {}};
for (let count = 0; count < 8; count++) client.send(new Int16Array(320));
client.flush();
client.send(new Int16Array(320));
await new Promise((resolve) => setTimeout(resolve, 3 * frameMs + 50)); // nothing more comes in time
client.send(new Int16Array(320));
client.close();
console.log(JSON.stringify(sent));
