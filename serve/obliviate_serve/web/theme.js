// Light or dark. Runs before the page is drawn, so that a remembered choice doesn't flash the other one first.
"use strict";
{
  const key = "obliviate.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try { return localStorage.getItem(key); } catch { return null; } // a browser may forbid storage
  };
  const apply = () => {
    const dark = (chosen() ?? (system.matches ? "dark" : "light")) === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    document.getElementById("theme")?.setAttribute("aria-pressed", String(dark));
  };
  const turn = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem(key, next); } catch { /* the choice then lasts as long as the page */ }
    document.documentElement.dataset.theme = next;
    document.getElementById("theme").setAttribute("aria-pressed", String(next === "dark"));
  };
  apply();
  system.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", turn);
  });
}
