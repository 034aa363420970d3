// Light or dark: as the system prefers until the reader chooses.
(() => {
  const set = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    document.dispatchEvent(new Event("theme"));
  };
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  set(preferred.matches);
  preferred.addEventListener("change", (event) => set(event.matches));
  document.getElementById("theme").addEventListener("click", () => set(document.documentElement.dataset.theme !== "dark"));
})();
