// The box one writes in: grows with its text, sends with Enter (never while an input method is composing), recalls what failed to go.

export class Composer {
  /** `act`: send(text) → whether it went, stop(), editLast(). */
  constructor(form, area, act) {
    Object.assign(this, { form, area, act });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    area.addEventListener("input", () => this.fit());
    area.addEventListener("keydown", (event) => {
      // keyCode 229: Safari's Enter that ends a composition comes after isComposing is false again.
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
        event.preventDefault();
        this.submit();
      } else if (event.key === "ArrowUp" && !area.value && act.editLast()) event.preventDefault();
    });
  }

  submit() {
    if (!this.act.send(this.area.value)) return;
    this.area.value = "";
    this.fit();
  }

  write(text) {
    this.area.value = text;
    this.fit();
    this.area.focus();
  }

  focus() {
    this.area.focus();
  }

  // field-sizing: content does this where the browser knows it.
  fit() {
    if (CSS.supports("field-sizing", "content")) return;
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight + 2}px`;
  }
}
