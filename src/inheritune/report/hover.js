// The nearest point's values beside the pointer or finger. Without this script the browser shows a point's title.
(() => {
  const reach = 40;  // pixels
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  let shown = [];

  const hide = () => {
    for (const point of shown) point.classList.remove("on");
    shown = [];
    tip.hidden = true;
  };

  const middle = (point) => {
    const box = point.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };

  const show = (points, [x, y]) => {
    hide();
    shown = points;
    for (const point of points) point.classList.add("on");
    tip.textContent = points.map((point) => point.dataset.says).join("\n");
    tip.hidden = false;
    const left = Math.min(x - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 4);
    const above = y - tip.offsetHeight - 16;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${above > 4 ? above : y + 16}px`;
  };

  for (const svg of document.querySelectorAll("svg")) {
    const points = [...svg.querySelectorAll(".point")];
    for (const point of points) {
      point.dataset.says = point.textContent;
      point.replaceChildren();
    }
    const seek = (event) => {
      const far = points.map((point) => {
        const [x, y] = middle(point);
        return Math.hypot(x - event.clientX, y - event.clientY);
      });
      const least = Math.min(...far);
      if (least > reach) return hide();
      const place = middle(points[far.indexOf(least)]);
      // what lies under the nearest one is shown too
      show(points.filter((point) => Math.hypot(middle(point)[0] - place[0], middle(point)[1] - place[1]) < 2), place);
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
