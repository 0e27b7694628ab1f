// Before anything is drawn: the colours chosen earlier, so that a dark page never flashes white. The one script that isn't a module.
try {
  const theme = JSON.parse(localStorage.getItem("qwill.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; the page works without.
}
