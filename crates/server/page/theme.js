// Light, dark, or as the system says; chosen before anything is drawn.
"use strict";

(() => {
  const STORED = "dsde-theme";
  const THEMES = ["auto", "light", "dark"];

  const stored = () => {
    try {
      return localStorage.getItem(STORED);
    } catch {
      return null; // Storage may be forbidden.
    }
  };

  let theme = THEMES.includes(stored()) ? stored() : "auto";

  const apply = () => {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
    document.dispatchEvent(new Event("themechange"));
  };

  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      try {
        localStorage.setItem(STORED, theme);
      } catch {
        // Then it holds until the page is left.
      }
      apply();
    });
  });
})();
