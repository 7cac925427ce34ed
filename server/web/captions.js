// Captions: the newest lines only, large, for a second screen or a browser source. The address says how they look.

import {$} from "./dom.js";

const LOOKS = {size: "captions-size", lines: "captions-lines", color: "captions-color", background: "captions-background", opacity: "captions-opacity", position: "captions-position"};

export function setUpCaptions() {
  const asked = new URLSearchParams(location.search);
  for (const [name, id] of Object.entries(LOOKS)) {
    const value = asked.get(name);
    if (value !== null) $(id).value = $(id).type === "color" ? `#${value.replace(/^#/, "")}` : value;
    $(id).oninput = look;
  }
  $("hide-captions").onclick = () => showCaptions(false);
  $("full-screen").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
  addEventListener("keydown", ({key}) => key === "Escape" && !document.fullscreenElement && !document.querySelector("dialog[open]") && showCaptions(false));
  if (asked.has("captions")) showCaptions(true);
}

export function showCaptions(areShown) {
  if (areShown === document.body.classList.contains("captions")) return;
  document.body.classList.toggle("captions", areShown);
  $("captions-bar").hidden = !areShown;
  look();
  if (!areShown && document.fullscreenElement) document.exitFullscreen();
  if (areShown) document.activeElement?.blur(); // a button with the focus would keep the controls in sight
}

function look() {
  const {style} = document.body, value = (name) => $(LOOKS[name]).value;
  style.setProperty("--captions-size", `${value("size")}px`);
  style.setProperty("--captions-lines", value("lines"));
  style.setProperty("--captions-color", value("color"));
  style.setProperty("--captions-background", `color-mix(in srgb, ${value("background")} ${value("opacity")}%, transparent)`);
  document.body.classList.toggle("at-top", value("position") === "top");
  const asked = new URLSearchParams(location.search);
  asked.delete("captions");
  for (const name of Object.keys(LOOKS)) asked.delete(name);
  if (document.body.classList.contains("captions")) for (const name of ["captions", ...Object.keys(LOOKS)]) asked.set(name, name === "captions" ? "1" : value(name).replace("#", ""));
  history.replaceState(null, "", `${location.pathname}${asked.size ? `?${asked}` : ""}${location.hash}`);
  const box = $("transcript");
  box.scrollTop = box.scrollHeight;
}
