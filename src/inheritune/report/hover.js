// The nearest point's values beside the pointer or finger. Without this script the browser shows a point's title.
(() => {
  const reach = 40;  // pixels
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  let shown = null;

  const hide = () => {
    shown?.classList.remove("on");
    shown = null;
    tip.hidden = true;
  };

  const show = (point, box) => {
    if (point !== shown) {
      hide();
      shown = point;
      point.classList.add("on");
      tip.textContent = point.dataset.says;
      tip.hidden = false;
    }
    const left = box.x + box.width / 2 - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - 4))}px`;
    const above = box.y - tip.offsetHeight - 10;
    tip.style.top = `${above > 4 ? above : box.bottom + 10}px`;
  };

  for (const svg of document.querySelectorAll("svg")) {
    const points = [...svg.querySelectorAll(".point")];
    for (const point of points) {
      point.dataset.says = point.textContent;
      point.replaceChildren();
    }
    const seek = (event) => {
      let least = reach, found = null, place = null;
      for (const point of points) {
        const box = point.getBoundingClientRect();
        const far = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
        if (far < least) [least, found, place] = [far, point, box];
      }
      if (found) show(found, place); else hide();
    };
    if (!points.length) continue;
    svg.addEventListener("pointermove", seek);
    svg.addEventListener("pointerdown", seek);
    svg.addEventListener("pointerleave", (event) => event.pointerType === "touch" || hide());
  }
  addEventListener("scroll", hide, {passive: true});
  // where details cannot be opened for print by style alone
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => one.open = true));
})();
