"use strict";
// The page reads without this program. With it, a picture opens large, and a filter can be drawn across its photo.
{
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  document.documentElement.classList.add("scripted");

  // One large view for the whole page; the arrow keys go through the pictures of one device.
  const picture = make("img"), caption = make("p");
  const close = make("button", { type: "button", textContent: "Close", className: "close" });
  const back = make("button", { type: "button", textContent: "Previous" });
  const next = make("button", { type: "button", textContent: "Next" });
  const bar = make("div", { className: "bar" }, back, caption, next, close);
  const view = make("dialog", { className: "view" }, bar);
  view.setAttribute("aria-label", "Picture");
  document.body.append(view);
  let shown = [], place = 0;
  const show = (step) => {
    place = (place + step + shown.length) % shown.length;
    picture.src = shown[place].src;
    picture.alt = shown[place].alt;
    picture.style.setProperty("--ratio", shown[place].getAttribute("width") / shown[place].getAttribute("height"));
    caption.textContent = `${shown[place].alt} (${place + 1} of ${shown.length})`;
  };
  const open = (image) => {
    const card = image.closest(".card");
    shown = ["style", "photo", "base", "filter"].map((name) => card.querySelector(`[data-shot=${name}] img:not(.under)`)).filter(Boolean);
    place = shown.indexOf(image);
    show(0);
    view.prepend(picture);
    view.showModal();
    close.focus();
  };
  close.addEventListener("click", () => view.close());
  back.addEventListener("click", () => show(-1));
  next.addEventListener("click", () => show(1));
  view.addEventListener("click", (event) => event.target === view && view.close());
  view.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(-1);
    if (event.key === "ArrowRight") show(1);
  });

  for (const image of document.querySelectorAll(".thumb img")) {
    const button = make("button", { type: "button", className: "open" });
    button.setAttribute("aria-label", `Enlarge: ${image.alt}`);
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => open(image));
  }

  document.querySelectorAll(".card").forEach((card, number) => {
    const over = card.querySelector(".hero img");
    if (!over) return;
    const name = card.querySelector("h3").firstChild.textContent;
    const frame = over.parentElement;
    const row = make("div", { className: "tools" });
    const large = make("button", { type: "button", className: "enlarge", textContent: "Enlarge" });
    large.setAttribute("aria-label", `Enlarge: ${over.alt}`);
    large.addEventListener("click", () => open(over));
    const choices = ["photo", "base"].map((kind) => [kind, card.querySelector(`[data-shot=${kind}] img`)]).filter(([, image]) => image);
    if (choices.length) {
      const under = make("img", { className: "under", alt: "", width: over.width, height: over.height });
      under.setAttribute("aria-hidden", "true");
      const slider = make("input", { type: "range", min: 0, max: 100, value: 34 });
      slider.setAttribute("aria-label", `${name}: compare with the filter`);
      const left = make("span", { className: "label left" }), right = make("span", { className: "label right", textContent: "Filter" });
      let what = "photo";
      const cut = () => {
        frame.style.setProperty("--cut", `${slider.value}%`);
        slider.setAttribute("aria-valuetext", `${slider.value} % ${what}, ${100 - slider.value} % filter`);
        left.hidden = slider.value < 18;
        right.hidden = slider.value > 82;
      };
      const choose = (kind, image) => {
        what = kind;
        under.src = image.src;
        left.textContent = kind === "photo" ? "Photo" : "Base";
        cut();
      };
      slider.addEventListener("input", cut);
      frame.prepend(under);
      frame.append(left, right, make("span", { className: "edge" }), slider);
      frame.classList.add("compare");
      const group = make("fieldset", {}, make("legend", { textContent: "Against" }));
      for (const [kind, image] of choices) {
        const radio = make("input", { type: "radio", name: `against-${number}`, checked: kind === choices[0][0] });
        radio.addEventListener("change", () => choose(kind, image));
        group.append(make("label", {}, radio, kind === "photo" ? "photo" : "base"));
      }
      row.append(group);
      choose(...choices[0]);
    }
    row.append(large);
    card.querySelector(".hero").append(row);
  });

  // On paper everything is open.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
}
