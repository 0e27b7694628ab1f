// The leaderboard: ratings with intervals, who beats whom, ratings over time, and the reader's own votes.

import { json } from "./api.js";
import { bar, extent, overTime } from "./arena_charts.js";
import { ask } from "./dialogs.js";
import { h, icon } from "./dom.js";
import { getLanguage, number, t } from "./i18n.js";

const CATEGORIES = {
  all: "catAll", en: "catEn", zh: "catZh", other: "catOther", code: "catCode", maths: "catMaths", long: "catLong", hard: "catHard",
};
const STYLES = { length: "styleLength", headers: "styleHeaders", bold: "styleBold", lists: "styleLists" };
const categoryName = (name) => (Object.hasOwn(CATEGORIES, name) ? t(CATEGORIES[name]) : name);
const percent = (share) => `${number(100 * share)}%`;

/** Whether the votes show that `row` is worse than the one above it: the intervals don't meet. */
export const apart = (row, above) => row.upper < above.lower;

export class Board {
  /** `act`: said(words) for screen readers, failed(error), erased(). */
  constructor(element, act) {
    Object.assign(this, { element, act, category: "all", style: false, table: null, points: [], voted: 0 });
    this.chart = h("div", { class: "over-time" });
    this.width = 0;
    new ResizeObserver(() => this.chart.clientWidth !== this.width && this.#drawChart()).observe(this.chart);
  }

  async load() {
    try {
      const [table, over, about] = await Promise.all([
        json(`/qwill/arena/leaderboard?category=${encodeURIComponent(this.category)}&style=${this.style}`),
        json("/qwill/arena/history"),
        json("/qwill/arena"),
      ]);
      Object.assign(this, { table, points: over.points, voted: about.voted });
      this.draw();
    } catch (error) {
      this.act.failed(error);
    }
  }

  async #pick(category) {
    this.category = category;
    await this.load();
    this.element.querySelector(".categories [aria-pressed=true]")?.focus();
  }

  async #look(style) {
    this.style = style;
    await this.load();
    this.element.querySelector(".styles [aria-pressed=true]")?.focus();
  }

  draw() {
    if (!this.table) return;
    const { categories, notes, ratings } = this.table;
    const look = (style, words) => h("button", { type: "button", class: "chip", "aria-pressed": String(style === this.style), onclick: () => this.#look(style) }, t(words));
    const choose = (name) =>
      h(
        "button",
        { type: "button", class: "chip", "aria-pressed": String(name === this.category), onclick: () => this.#pick(name) },
        `${categoryName(name)} `,
        h("small", null, number(categories[name])),
      );
    const order = [...Object.keys(CATEGORIES), ...Object.keys(categories)];
    const names = [...new Set(order)].filter((name) => Object.hasOwn(categories, name));
    this.element.replaceChildren(
      h("h1", null, t("board")),
      h("p", { class: "soft" }, t("boardNote")),
      h("div", { class: "categories", role: "group", "aria-label": t("categories") }, names.map(choose)),
      h("div", { class: "styles", role: "group", "aria-label": t("style") }, look(false, "stylePlain"), look(true, "styleControlled")),
      this.style ? h("p", { class: "hint" }, t("styleNote", { effects: this.#effects() })) : "",
      this.#ratings(ratings),
      ...notes.map((note) => h("p", { class: "hint note-line" }, note[getLanguage()] ?? note.en)),
      ...this.#suspected(),
      h("h2", null, t("matrix")),
      h("p", { class: "hint" }, t("matrixNote")),
      this.#matrix(ratings),
      h("h2", null, t("overTime")),
      h("p", { class: "hint" }, t("overTimeNote")),
      this.chart,
      h("h2", null, t("mine")),
      h("p", { class: "hint" }, t("mineNote", { n: number(this.voted) })),
      h("button", { type: "button", class: "plain", id: "erase", disabled: !this.voted, onclick: () => this.#erase() }, icon("bin"), t("erase")),
    );
    this.#drawChart();
  }

  #ratings(rows) {
    const rated = rows.filter((row) => row.rating !== null);
    const scale = rated.length ? extent(rated) : [0, 1];
    const line = (row, i) => {
      const above = rated[i - 1];
      const known = row.rating !== null;
      const compared = !known ? t("unrated") : above ? t(apart(row, above) ? "below" : "noDifference", { model: above.model }) : "";
      return h(
        "tr",
        { role: "row" },
        h("td", { role: "cell", class: "rank" }, known ? number(row.rank) : "–"),
        h("th", { role: "rowheader", scope: "row" }, row.model),
        h("td", { role: "cell", class: "number" }, known ? number(row.rating) : "–"),
        h("td", { role: "cell", class: "interval" }, known ? bar(row, scale) : null, h("small", null, compared)),
        h("td", { role: "cell", class: "number votes" }, number(row.votes)),
      );
    };
    const heads = [["rank", "rank"], ["model", ""], ["rating", "number"], ["interval", "interval"], ["votes", "number"]];
    const head = ([words, style]) => h("th", { role: "columnheader", scope: "col", class: style || null }, t(words));
    return h(
      "table",
      { role: "table", class: "ratings", "aria-label": t("board") },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads.map(head))),
      h("tbody", { role: "rowgroup" }, rows.map(line)),
    );
  }

  /** What one standard deviation more of each feature does to the odds. */
  #effects() {
    const found = Object.entries(this.table.style_effects ?? {});
    return found.map(([name, effect]) => `${t(STYLES[name] ?? name)} ×${number(Math.exp(effect), 2)}`).join(getLanguage() === "zh" ? "，" : ", ");
  }

  #suspected() {
    const found = this.table.suspicions ?? [];
    if (!found.length) return [];
    const line = ({ model, direction, voters, votes, share, expected }) =>
      h("li", null, t(direction === "for" ? "suspectedFor" : "suspectedAgainst", { model, voters: number(voters), votes: number(votes), share: percent(share), expected: percent(expected) }));
    return [h("h2", null, t("suspected")), h("p", { class: "hint" }, t("suspectedNote")), h("ul", { class: "hint suspected" }, found.map(line))];
  }

  #matrix(rows) {
    const { models, points, battles } = this.table.matrix;
    const names = rows.map((row) => row.model).filter((name) => models.includes(name));
    const cell = (row, column) => {
      const [i, j] = [models.indexOf(row), models.indexOf(column)];
      if (i === j) return h("td", { class: "self" }, "");
      const count = battles[i][j];
      if (!count) return h("td", null, h("span", { role: "img", "aria-label": t("matrixNone", { row, column }) }, "–"));
      const share = points[i][j] / count;
      const words = t("matrixCell", { row, column, share: percent(share), battles: number(count) });
      const made = h("td", { class: share >= 0.5 ? "more" : "less", title: words }, h("span", { role: "img", "aria-label": words }, percent(share)));
      made.style.setProperty("--far", `${Math.round(Math.abs(share - 0.5) * 80)}%`);
      return made;
    };
    if (!points.length) return h("p", { class: "hint" }, "–");
    // Columns are headed by their number in the rows, so that many models fit; the name is in the label.
    const head = (name, i) => h("th", { scope: "col", title: name }, h("span", { role: "img", "aria-label": name }, number(i + 1)));
    const line = (name, i) => h("tr", null, h("th", { scope: "row" }, h("span", { class: "nth", "aria-hidden": "true" }, number(i + 1)), name), names.map((other) => cell(name, other)));
    return h(
      "div",
      { class: "heat", tabindex: "0", role: "region", "aria-label": t("matrix") },
      h("table", null, h("thead", null, h("tr", null, h("td"), names.map(head))), h("tbody", null, names.map(line))),
    );
  }

  #drawChart() {
    if (!this.table || !this.chart.clientWidth) return;
    this.width = this.chart.clientWidth;
    const best = this.table.ratings.map((row) => row.model);
    this.chart.replaceChildren(...overTime(this.points, best, this.width));
  }

  async #erase() {
    if (!(await ask(t("eraseAsk"), t("erase")))) return;
    try {
      const { erased } = await json("/qwill/arena/votes/mine", { method: "DELETE" });
      this.category = "all";
      await this.load();
      this.act.said(t("erased", { n: number(erased) }));
      this.act.erased();
    } catch (error) {
      this.act.failed(error);
    }
  }
}
