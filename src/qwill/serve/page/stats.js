// The server's load, live: tokens a second with its last minute as a line, what runs and waits, how full the cache is.

import { json } from "./api.js";
import { h, svg } from "./dom.js";
import { number, t } from "./i18n.js";

const EVERY = 2000;
const KEPT = 30;

/** The points of a line through `values`, in a box of width × height. */
export function points(values, width, height) {
  const top = Math.max(1, ...values);
  const step = width / (KEPT - 1);
  const left = width - (values.length - 1) * step;
  return values.map((value, i) => `${(left + i * step).toFixed(1)},${(height - 1 - (value / top) * (height - 2)).toFixed(1)}`).join(" ");
}

export class Stats {
  /** `arena`: the link to the arena, shown where the server says that it has one. */
  constructor(strip, arena) {
    Object.assign(this, { strip, arena });
    this.speeds = [];
    this.last = null;
    document.addEventListener("visibilitychange", () => !document.hidden && this.watch());
    this.watch();
  }

  async watch() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    try {
      this.last = await json("/qwill/stats", { quiet: true });
      this.speeds = [...this.speeds, Number(this.last.tokens_per_second) || 0].slice(-KEPT);
    } catch (error) {
      this.last = null;
      if (error.status === 404) return this.draw(); // this server has none
    }
    this.draw();
    this.timer = setTimeout(() => this.watch(), EVERY);
  }

  draw() {
    this.strip.hidden = !this.last;
    if (this.last) this.arena.hidden = !this.last.arena;
    if (!this.last) return;
    const { tokens_per_second: speed, running, waiting, cache_used: used, cache_total: total } = this.last;
    const facts = [
      t("liveRunning", { n: number(running ?? 0) }),
      waiting ? t("liveWaiting", { n: number(waiting) }) : null,
      total ? t("liveCache", { n: number((100 * used) / total) }) : null,
    ];
    const line = svg("polyline", { points: points(this.speeds, 96, 22) });
    this.strip.replaceChildren(
      h("p", null, h("strong", null, number(speed ?? 0, speed < 10 ? 1 : 0)), ` ${t("liveSpeed")}`),
      svg("svg", { viewBox: "0 0 96 22", class: "spark", "aria-hidden": "true" }, line),
      h("p", { class: "hint" }, facts.filter(Boolean).join(" · ")),
    );
  }
}
