// Following a growing text: stays at the end as long as the reader is there, and leaves at once when the reader scrolls up.

const NEAR = 48;

export class Follow {
  /** `box` scrolls; `button` is shown while its end is out of sight. */
  constructor(box, button) {
    Object.assign(this, { box, button, on: true });
    box.addEventListener("scroll", () => this.#look(), { passive: true });
    // A scroll event comes too late to win against the next frame of a quick stream.
    box.addEventListener("wheel", (event) => event.deltaY < 0 && this.leave(), { passive: true });
    box.addEventListener("touchmove", () => this.#look(), { passive: true });
    box.addEventListener("keydown", (event) => ["ArrowUp", "PageUp", "Home"].includes(event.key) && this.leave());
    button.addEventListener("click", () => this.end());
  }

  get #left() {
    return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
  }

  #look() {
    // Going down to the end takes up following again; any way up ends it. Only a way down does: a scroll event may tell of a
    // place from before the key that leaves, and a browser that scrolls softly is still near the end in its first frames.
    const moved = this.box.scrollTop - (this.top ?? 0);
    this.top = this.box.scrollTop;
    if (moved < -1 && this.#left > NEAR) this.on = false;
    else if (moved > 1 && this.#left <= NEAR) this.on = true;
    this.button.hidden = this.#left <= NEAR * 4 || this.on;
  }

  leave() {
    if (this.#left > 0 || this.box.scrollHeight > this.box.clientHeight) this.on = false;
  }

  /** After the content has grown. */
  grown() {
    if (this.on) this.box.scrollTop = this.top = this.box.scrollHeight;
    this.button.hidden = this.on || this.#left <= NEAR * 4;
  }

  end() {
    this.on = true;
    this.grown();
  }
}
