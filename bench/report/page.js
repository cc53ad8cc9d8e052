"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // ---- sorting: numbers by value, texts as they are read, what is missing last in both directions
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.querySelector(".why") ? row.dataset.word : cell.textContent).trim().replace(/[\u2212\u2013]/g, "-");
    if (!text || text === "n/a") return null;
    return cell.classList.contains("n") && !Number.isNaN(parseFloat(text)) ? parseFloat(text) : text;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const sort = (button) => {
    const head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex, was = head.getAttribute("aria-sort") || "";
    const turns = /^(VOC )?AP/.test(head.textContent) ? ["", "descending", "ascending"] : ["", "ascending", "descending"]; // then as it was
    const direction = turns[(turns.indexOf(was) + 1) % 3];
    all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    const rows = [...body.rows];
    if (!table.dataset.kept) { rows.forEach((row, place) => { row.dataset.place = place; }); table.dataset.kept = "1"; }
    if (direction) head.setAttribute("aria-sort", direction);
    const sign = direction === "descending" ? -1 : 1;
    const keyed = rows.map((row) => [direction ? value(row, column) : 0, row]);
    keyed.sort(([a, first], [b, second]) => {
      if (a === null || b === null) return (a === null) - (b === null) || first.dataset.place - second.dataset.place;
      return sign * compare(a, b) || first.dataset.place - second.dataset.place;
    });
    body.append(...keyed.map(([, row]) => row));
    table.classList.toggle("sorted", Boolean(direction)); // then a repeated label is as clear as its first
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".sort");
    if (button) sort(button);
  });

  // ---- filters: a row is shown where it fits every one
  const fits = (row, key, wanted) => {
    const own = row.dataset[key] || "";
    if (key === "text") return (own || row.textContent).toLowerCase().includes(wanted.toLowerCase());
    return key === "outcome" ? own.includes(`|${wanted}|`) : own === wanted;
  };
  const filter = (form) => {
    const rows = [...document.getElementById(form.dataset.for).tBodies[0].rows];
    const wanted = all("[data-key]", form).filter((field) => field.value).map((field) => [field.dataset.key, field.value]);
    let shown = 0;
    rows.forEach((row) => {
      row.hidden = !wanted.every(([key, text]) => fits(row, key, text));
      shown += !row.hidden;
    });
    form.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
  };
  all("form.filters").forEach((form) => {
    form.addEventListener("input", () => filter(form));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => filter(form)));
    filter(form);
  });
  const cells = document.querySelector("#cell-filter select");
  const narrow = () => {
    let shown = 0;
    all(".paper article.table").forEach((article) => {
      const rows = all("tr[data-word]", article);
      rows.forEach((row) => { row.hidden = Boolean(cells.value) && row.dataset.word !== cells.value; });
      const left = rows.filter((row) => !row.hidden).length;
      article.hidden = !left;
      shown += left;
    });
    all(".paper").forEach((section) => { section.hidden = Boolean(cells.value) && !section.querySelector("article:not([hidden])"); });
    document.querySelector("#cell-filter output").textContent = cells.value ? `${shown} cells and claims` : "";
  };
  if (cells) {
    cells.addEventListener("input", narrow);
    narrow();
  }

  // ---- a record, or a paper, that a filter hides is shown where a link leads to it
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target || !target.hidden) return;
    const form = document.querySelector('form[data-for="records"]');
    if (form) form.reset();
    if (cells) {
      cells.value = "";
      narrow();
    }
    setTimeout(() => target.scrollIntoView({ block: form ? "center" : "start" }));
  };
  addEventListener("hashchange", reveal);
  reveal(); // a link from another page, where the browser has kept what the filter said

  // ---- reasons: beside what they explain, on hover, focus and tap; Escape puts them away
  const float = document.createElement("span");
  float.className = "tip";
  float.id = "float";
  document.body.append(float);
  all(".pt > title").forEach((title) => {
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  });
  const place = (tip, near) => {
    const wide = document.documentElement.clientWidth, tall = innerHeight, at = near.getBoundingClientRect();
    tip.style.left = tip.style.right = tip.style.top = tip.style.bottom = "auto";
    tip.style.width = `${Math.min(416, wide - 32)}px`;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(16, Math.min(at.left, wide - box.width - 16))}px`;
    tip.style.top = `${at.bottom + box.height + 8 < tall ? at.bottom : Math.max(8, at.top - box.height)}px`;
  };
  const show = (target) => {
    document.body.classList.remove("shut");
    float.classList.remove("shown");
    const point = target.closest(".pt"), why = target.closest(".why");
    if (why) place(why.nextElementSibling, why);
    if (point) {
      float.textContent = point.getAttribute("aria-label");
      float.classList.add("shown");
      place(float, point);
    }
  };
  ["mouseover", "focusin"].forEach((kind) => document.addEventListener(kind, (event) => {
    if (event.target.closest(".tip")) return;
    show(event.target);
  }));
  document.addEventListener("focusout", () => float.classList.remove("shown"));
  document.addEventListener("click", (event) => { // on a phone a tap may not focus a button
    const why = event.target.closest(".why");
    if (why) why.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.body.classList.add("shut");
  });
  addEventListener("scroll", () => {
    const focused = document.activeElement;
    if (focused && focused.classList.contains("why")) place(focused.nextElementSibling, focused);
    if (focused && focused.classList.contains("pt")) place(float, focused);
    else float.classList.remove("shown");
  }, { passive: true, capture: true });
})();
