(() => {
  let kept = null;
  try { kept = localStorage.getItem("forget-theme"); } catch { /* a page from a file may have no storage */ }
  const dark = kept ? kept === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
