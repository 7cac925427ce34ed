// What the page remembers: settings in this browser, the key for as long as the tab is open, and a draft of the text.

const SETTINGS = ["device", "echoCancellation", "noiseSuppression", "autoGainControl", "transport", "text-size"];
const DRAFT = "moonshine-asr draft", CHOSEN = "moonshine-asr settings", KEY = "key";

const $ = (id) => document.getElementById(id);

// Browsers that are set to keep nothing throw.
function stored(storage, name) {
  try {
    return globalThis[storage].getItem(name) ?? "";
  } catch {
    return "";
  }
}

function store(storage, name, value) {
  try {
    globalThis[storage].setItem(name, value);
  } catch {} // nothing is remembered then
}

export const key = () => stored("sessionStorage", KEY);
export const setKey = (value) => store("sessionStorage", KEY, value.trim());
export const authorization = () => (key() ? {Authorization: `Bearer ${key()}`} : {});

export function loadDraft() {
  try {
    return JSON.parse(stored("localStorage", DRAFT) || "[]");
  } catch {
    return [];
  }
}

export const saveDraft = (saved) => store("localStorage", DRAFT, JSON.stringify(saved));

export function loadSettings(onChange) {
  const chosen = JSON.parse(stored("localStorage", CHOSEN) || "{}");
  for (const name of SETTINGS) {
    const control = $(name), property = control.type === "checkbox" ? "checked" : "value";
    if (name in chosen) {
      if (name === "device" && chosen[name]) control.append(new Option("The microphone of last time", chosen[name]));
      control[property] = chosen[name];
    }
    control.addEventListener("change", () => {
      store("localStorage", CHOSEN, JSON.stringify(Object.fromEntries(SETTINGS.map((each) => [each, $(each)[$(each).type === "checkbox" ? "checked" : "value"]]))));
      onChange(name);
    });
  }
}

export async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [], select = $("device"), chosen = select.value;
  const inputs = devices.filter((device) => device.kind === "audioinput" && device.deviceId && device.deviceId !== "default");
  if (!inputs.some((device) => device.label)) return; // the browser names them once the microphone is allowed
  select.replaceChildren(new Option("System default", ""), ...inputs.map((each) => new Option(each.label, each.deviceId)));
  select.value = inputs.some((device) => device.deviceId === chosen) ? chosen : "";
}

export async function openMicrophone() {
  const chosen = $("device").value;
  const audio = {channelCount: 1, ...(chosen && {deviceId: {ideal: chosen}})};
  for (const name of ["echoCancellation", "noiseSuppression", "autoGainControl"]) audio[name] = $(name).checked;
  const media = await navigator.mediaDevices.getUserMedia({audio});
  listDevices();
  return media;
}
