// Drawings of ratings: an interval as a bar, ratings over time with bands. Colours are classes of arena.css.

import { h, svg } from "./dom.js";
import { number, t } from "./i18n.js";

const HEIGHT = 260;
const LEFT = 46;
const BOTTOM = 26;
const MOST = 8; // lines that can still be told apart

const whole = (value) => number(value, 0);
export const intervalWords = ({ rating, lower, upper }) => t("intervalOf", { rating: whole(rating), lower: whole(lower), upper: whole(upper) });

/** What all intervals lie in, with a little room: [low, high]. */
export function extent(intervals) {
  const low = Math.min(...intervals.map(({ lower }) => lower));
  const high = Math.max(...intervals.map(({ upper }) => upper));
  const room = Math.max((high - low) * 0.05, 1);
  return [low - room, high + room];
}

/** The interval of one model on the scale `low` to `high`. */
export function bar(row, [low, high]) {
  const at = (value) => `${((100 * (value - low)) / (high - low)).toFixed(2)}%`;
  return svg(
    "svg",
    { class: "bar", role: "img", "aria-label": intervalWords(row) },
    svg("line", { class: "rail", x1: "0", x2: "100%", y1: "50%", y2: "50%" }),
    svg("line", { class: "span", x1: at(row.lower), x2: at(row.upper), y1: "50%", y2: "50%" }),
    svg("circle", { cx: at(row.rating), cy: "50%", r: "4.5" }),
  );
}

/** Round values within [low, high], about `count` of them. */
export function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value);
  return found;
}

/** Ratings over time of `models`, best first, `width` pixels wide: a drawing and its legend. */
export function overTime(points, models, width) {
  const series = models.slice(0, MOST).map((model, i) => ({
    model,
    style: `s${i}`,
    points: points.filter((point) => point.ratings[model]).map((point) => ({ votes: point.votes, ...point.ratings[model] })),
  }));
  const drawn = series.filter((one) => one.points.length);
  if (points.length < 2 || !drawn.length) return [h("p", { class: "hint" }, t("overTimeFew"))];
  const [low, high] = extent(drawn.flatMap((one) => one.points));
  const [first, last] = [points[0].votes, points.at(-1).votes];
  const x = (votes) => LEFT + ((width - LEFT - 8) * (votes - first)) / (last - first);
  const y = (value) => 8 + ((HEIGHT - BOTTOM - 8) * (high - value)) / (high - low);
  const place = (votes, value) => `${x(votes).toFixed(1)},${y(value).toFixed(1)}`;
  const grid = ticks(low, high, 5).flatMap((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: width - 8, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, whole(value)),
  ]);
  const below = ticks(first, last, Math.max(3, width / 130)).map((votes) =>
    svg("text", { x: x(votes), y: HEIGHT - 6, "text-anchor": x(votes) > width - 30 ? "end" : "middle" }, whole(votes)),
  );
  const shapes = drawn.map(({ style, points: own }) => {
    const band = [...own.map((one) => place(one.votes, one.upper)), ...own.map((one) => place(one.votes, one.lower)).reverse()];
    const line = svg("polyline", { points: own.map((one) => place(one.votes, one.rating)).join(" ") });
    return svg("g", { class: style }, svg("polygon", { points: band.join(" ") }), line);
  });
  const words = drawn.map(({ model, points: own }) => {
    const { rating, lower, upper } = own.at(-1);
    return t("overTimeEnds", { model, first: whole(own[0].rating), last: whole(rating), lower: whole(lower), upper: whole(upper) });
  });
  const picture = svg(
    "svg",
    { class: "chart", role: "img", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-label": words.join("; ") },
    grid,
    below,
    shapes,
  );
  const key = ({ model, style }) => h("li", null, svg("svg", { class: `swatch ${style}`, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 28, y1: 6, y2: 6 })), model);
  return [picture, h("ul", { class: "legend" }, drawn.map(key))];
}
