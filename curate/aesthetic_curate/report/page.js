"use strict";
(() => {
  const whole = new Intl.NumberFormat("en");
  const share = (part, all) => {
    if (part === 0 || part === all) return (all ? (100 * part) / all : 0) + " %";
    const value = (100 * part) / all;
    if (value >= 99.95) return "> 99.9 %";
    return value < 0.001 ? "< 0.001 %" : value >= 1 ? value.toFixed(1) + " %" : Number(value.toPrecision(2)) + " %";
  };

  // The threshold below each histogram: greys what a filter drops, and says what it keeps.
  for (const cut of document.querySelectorAll(".cut")) {
    const { edges, kept, count, digits, command } = JSON.parse(cut.dataset.cut);
    const input = cut.querySelector("input");
    const bars = cut.parentElement.querySelectorAll(".plot g");
    const show = () => {
      const at = Number(input.value);
      const score = edges[at].toFixed(digits);
      const text = [" and above keeps ", whole.format(kept[at]), " of " + whole.format(count) + " scored images, ", share(kept[at], count)];
      const bold = (words) => Object.assign(document.createElement("b"), { textContent: words });
      cut.querySelector("output").replaceChildren(bold(score), text[0], bold(text[1]), text[2], bold(text[3]));
      input.setAttribute("aria-valuetext", score + text.join(""));
      cut.querySelector(".command").textContent = command.replace("{}", score);
      bars.forEach((bar, index) => bar.classList.toggle("below", index < at));
    };
    input.addEventListener("input", show);
    bars.forEach((bar, index) => bar.addEventListener("click", () => { input.value = index; show(); }));
    show();
  }

  // A click on a thumbnail shows what it is. Texts are set as text, never as HTML.
  const dialog = document.getElementById("detail");
  const thumbs = [...document.querySelectorAll(".images button")];
  let current = 0;
  const open = (index) => {
    current = index;
    const { caption, facts } = JSON.parse(thumbs[index].dataset.facts);
    const from = thumbs[index].querySelector("img");
    const image = dialog.querySelector("img");
    image.src = from.src;
    image.width = from.getAttribute("width") * 1.75;
    image.height = from.getAttribute("height") * 1.75;
    dialog.querySelector(".caption").textContent = caption;
    dialog.querySelector("dl").replaceChildren(...facts.flatMap(([name, value]) => [
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    ]));
    dialog.querySelector(".previous").disabled = index === 0;
    dialog.querySelector(".next").disabled = index === thumbs.length - 1;
    if (!dialog.open) dialog.showModal();
  };
  const step = (by) => { if (thumbs[current + by]) open(current + by); };
  thumbs.forEach((thumb, index) => thumb.addEventListener("click", () => open(index)));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.querySelector(".previous").addEventListener("click", () => step(-1));
  dialog.querySelector(".next").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => thumbs[current].focus());
})();
