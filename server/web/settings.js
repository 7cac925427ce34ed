// What the page remembers: settings in this browser, the key and the text for as long as the tab is open, and the last text of all.

import {$} from "./dom.js";

const SETTINGS = ["device", "echoCancellation", "noiseSuppression", "autoGainControl", "transport", "keyterms", "text-size"];
const DRAFT = "moonshine-asr draft", CHOSEN = "moonshine-asr settings", KEY = "key";

// Browsers that are set to keep nothing throw. What this page itself has stored it knows all the same.
const own = new Map();

function stored(storage, name) {
  try {
    return globalThis[storage].getItem(name) ?? "";
  } catch {
    return own.get(name) ?? "";
  }
}

// False where there is no room.
function store(storage, name, value) {
  own.set(name, value);
  try {
    globalThis[storage].setItem(name, value);
    return true;
  } catch {
    return false;
  }
}

function parsed(text, otherwise) {
  try {
    return JSON.parse(text);
  } catch {
    return otherwise;
  }
}

export const key = () => stored("sessionStorage", KEY);
export const setKey = (value) => store("sessionStorage", KEY, value.trim());
// The terms of a text with commas between them.
export const termsIn = (text) => text.split(",").map((term) => term.trim()).filter(Boolean);
export const authorization = () => (key() ? {Authorization: `Bearer ${key()}`} : {});

// Each tab has a text of its own. The last one of any tab is offered to a new tab.
export const loadDraft = () => parsed(stored("sessionStorage", DRAFT), []);
export const loadLast = () => parsed(stored("localStorage", DRAFT), []);

// False where the browser has no room for it.
export function saveDraft(saved) {
  const text = JSON.stringify(saved);
  if (saved.length) store("localStorage", DRAFT, text);
  return store("sessionStorage", DRAFT, text);
}

export function loadSettings(onChange) {
  const chosen = parsed(stored("localStorage", CHOSEN), {});
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
