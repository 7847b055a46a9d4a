// Which text of the page stands out too little from what is behind it: WCAG 2.2, 1.4.3, asks for 4.5 to 1.
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const parsed = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = "#000"; canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = ([r, g, b, a], under) => [r * a + under[0] * (1 - a), g * a + under[1] * (1 - a), b * a + under[2] * (1 - a), 1];
const behind = (it) => {
  if (!it) return [255, 255, 255, 1];
  const shape = it.matches("g.label, g.node, g.lane") && it.querySelector("rect");
  const own = parsed(shape ? getComputedStyle(shape).fill : getComputedStyle(it).backgroundColor);
  return own[3] === 1 ? own : over(own, behind(it.parentElement));
};
const light = (colour) => {
  const [r, g, b] = colour.map((it) => it / 255).map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
const seen = new Map();
const look = (it, style, text, under) => {
  const value = ratio(over(parsed(it.closest("svg.graph") ? style.fill : style.color), under), under);
  const name = `${value.toFixed(2)} ${it.tagName}.${it.getAttribute("class") ?? ""} ${text.slice(0, 30)}`;
  seen.set(name, value);
};
for (const it of document.querySelectorAll("body *")) {
  const text = [...it.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join(" ").trim();
  if (it.matches("input")) look(it, getComputedStyle(it, "::placeholder"), it.placeholder, behind(it));
  if (!text || it.closest(".hidden, .skip, noscript, .off, script, title, option") || it.getClientRects().length === 0) continue;
  look(it, getComputedStyle(it), text, behind(it));
}
return { looked: seen.size, bad: [...seen].filter(([, value]) => value < 4.5).map(([name]) => name) };
