// A link to a claim inside a folded box unfolds the box; browsers that do so themselves lose nothing.
function unfoldTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folds = [];
  for (let box = target?.closest("details"); box; box = box.parentElement.closest("details")) folds.push(box);
  if (!folds.some((box) => !box.open)) return;
  for (const box of folds) box.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", unfoldTarget);
addEventListener("DOMContentLoaded", unfoldTarget);

// On the scoreboard, choosing a verdict unfolds its claims; what has none of them is left out by style.
addEventListener("change", ({ target }) => {
  if (target.name !== "rb-show") return;
  for (const part of document.querySelectorAll(".rb-board-part")) part.open = target.value !== "rb-all";
});

// Paper is light, whatever the screen was.
{
  const page = document.documentElement.dataset;
  let theme = page.theme;
  addEventListener("beforeprint", () => {
    theme = page.theme;
    page.theme = "light";
  });
  addEventListener("afterprint", () => {
    page.theme = theme;
  });
}
