// What every part of the page does with the document.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

// Rejects where the browser does not allow it.
export async function copyText(text) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyBySelection(text);
}

// Pages over plain http have no clipboard of the newer kind.
function copyBySelection(text) {
  const field = element("textarea", {value: text, className: "unseen"});
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (!isCopied) throw new Error("not allowed");
}
