// Pointing at a link to an equation, a claim or a reference of the same page shows it beside the link; so does the
// keyboard. Escape puts it away. Without this script the links lead where they always lead.
addEventListener("DOMContentLoaded", () => {
  const LINKS = ".bd-article a[href^='#equation-'], .bd-article a[href^='#claim-'], .bd-article a[href^='#id'], .bd-article a[href*='-claim-']";
  const card = document.createElement("div");
  card.className = "rb-hover";
  card.id = "rb-hover";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  document.body.append(card);
  let shown = null;
  let soon = 0;

  const place = (link) => link.hash && document.getElementById(decodeURIComponent(link.hash.slice(1)));

  // What the card says: the equation or the reference as it stands in the page, of a claim its words and verdict.
  function content(target) {
    if (target.matches("tr[id*='claim-']")) {
      return [...target.querySelectorAll("td:first-child > p:first-child, .rb-verdict")];
    }
    if (target.matches(".math, .citation, [role='listitem']")) return [target];
    return [];
  }

  function show(link) {
    const target = place(link);
    const parts = target ? content(target) : [];
    if (!parts.length) return;
    card.replaceChildren(...parts.map((part) => part.cloneNode(true)));
    for (const part of card.querySelectorAll("[id]")) part.removeAttribute("id");
    card.firstElementChild.removeAttribute("id");
    for (const part of card.querySelectorAll("a.headerlink, mjx-assistive-mml")) part.remove();
    for (const part of card.querySelectorAll("a, [tabindex]")) part.setAttribute("tabindex", "-1");
    card.hidden = false;
    const at = link.getBoundingClientRect();
    const wide = document.documentElement.clientWidth;
    const { width, height } = card.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, wide - width - 8));
    const above = at.top > height + 70; // 70: the bar at the top of the page
    card.style.left = `${left + scrollX}px`;
    card.style.top = `${scrollY + (above ? at.top - height - 6 : at.bottom + 6)}px`;
    link.setAttribute("aria-describedby", card.id);
    shown = link;
  }

  function hide() {
    clearTimeout(soon);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    card.hidden = true;
  }

  for (const link of document.querySelectorAll(LINKS)) {
    link.addEventListener("focus", () => link.matches(":focus-visible") && show(link));
    link.addEventListener("blur", hide);
    link.addEventListener("click", hide);
    link.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "mouse") return;
      clearTimeout(soon);
      soon = setTimeout(show, 150, link);
    });
    // a moment to reach the card, so that it can be read with the pointer on it
    link.addEventListener("pointerleave", () => {
      clearTimeout(soon);
      soon = setTimeout(() => card.matches(":hover") || hide(), 200);
    });
  }
  card.addEventListener("pointerleave", hide);
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
});
