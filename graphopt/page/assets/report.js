"use strict";
/* One section at a time, named by the page's fragment; drawings are made when they are first seen. */
(() => {
  const sections = [...document.querySelectorAll("section")];
  const nav = document.querySelector("nav");
  const tabs = sections.map((section, index) => {
    const tab = Object.assign(document.createElement("button"), { textContent: section.dataset.title, type: "button" });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", section.id);
    section.setAttribute("role", "tabpanel");
    tab.addEventListener("click", () => { show(index); history.replaceState(null, "", "#" + section.dataset.name); });
    tab.addEventListener("keydown", event => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = (index + by + sections.length) % sections.length;
      tabs[next].focus(); tabs[next].click();
    });
    nav.append(tab);
    return tab;
  });

  function show(index) {
    sections.forEach((section, i) => {
      section.classList.toggle("shown", i === index);
      tabs[i].setAttribute("aria-selected", i === index);
      tabs[i].tabIndex = i === index ? 0 : -1;
    });
    scrollTo(0, 0);
    const frame = sections[index].querySelector("iframe");
    if (!frame || frame.srcdoc) return;
    frame.addEventListener("load", () => {
      frame.dataset.nodes = frame.contentDocument.documentElement.dataset.nodes || "";
    });
    frame.srcdoc = JSON.parse(document.getElementById(frame.dataset.page).textContent);
  }

  const named = () => Math.max(sections.findIndex(section => "#" + section.dataset.name === location.hash), 0);
  document.body.classList.add("tabbed");
  addEventListener("hashchange", () => show(named()));
  if (sections.length) show(named());
})();
