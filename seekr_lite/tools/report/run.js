"use strict";
document.documentElement.classList.add("js");

// The slider over tasks: one panel of heads at a time.
const slider = document.getElementById("task-slider");
if (slider) {
  const panels = [...document.querySelectorAll(".heads")];
  const show = () => {
    panels.forEach((panel, index) => { panel.hidden = index !== Number(slider.value); });
    const name = panels[Number(slider.value)].dataset.task;
    document.getElementById("task-name").textContent = "after " + name;
    slider.setAttribute("aria-valuetext", "after " + name);
  };
  slider.addEventListener("input", show);
  show();
}

// The filter of predictions: by task, round, mark and text; a page of rows at a time.
const form = document.getElementById("filter");
if (form) {
  const PAGE = 30;
  const more = document.getElementById("more");
  const rows = [...document.querySelectorAll("#rows > li")].map((item) => ({
    item,
    words: [...item.querySelectorAll(".name, .data")].map((one) => one.textContent).join("\n").toLowerCase(),
    fates: item.dataset.fate.split(" "),
    lines: [...item.querySelectorAll("tbody tr")],
  }));
  let limit = PAGE;
  const apply = () => {
    const { task, round, mark, text } = Object.fromEntries(new FormData(form));
    const wanted = text.trim().toLowerCase();
    let found = 0;
    for (const { item, words, fates, lines } of rows) {
      for (const line of lines) line.hidden = round !== "" && line.dataset.round !== round;
      const shown = lines.filter((line) => !line.hidden);
      const fits = (task === "" || item.dataset.task === task)
        && shown.length > 0
        && (mark === "" || fates.includes(mark) || shown.some((line) => line.dataset.mark === mark))
        && words.includes(wanted);
      if (fits) found += 1;
      item.hidden = !fits || found > limit;
    }
    more.hidden = found <= limit;
    const visible = Math.min(found, limit);
    document.getElementById("count").textContent = found === rows.length
      ? `${visible} of ${found} rows` : `${visible} of ${found} rows that fit`;
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { limit = PAGE; apply(); });
  more.addEventListener("click", () => {
    const first = rows.filter(({ item }) => !item.hidden).length;
    limit += PAGE;
    apply();
    const next = rows.filter(({ item }) => !item.hidden)[first];
    if (next) { next.item.tabIndex = -1; next.item.focus(); }
  });
  apply();
}
