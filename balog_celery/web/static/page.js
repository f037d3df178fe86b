// Renews the page while it is open: everything works without this, too.
"use strict";
(() => {
  const main = document.querySelector("main[data-refresh]");
  if (!main) return;
  const isBusy = () => document.hidden || main.contains(document.activeElement) && document.activeElement !== main;
  const renew = async () => {
    const seconds = Number(main.dataset.refresh);
    if (!isBusy()) {
      try {
        const response = await fetch(location.href, { credentials: "same-origin" });
        if (response.ok) {
          const page = new DOMParser().parseFromString(await response.text(), "text/html");
          const fresh = page.querySelector("main");
          if (!isBusy()) {
            main.replaceChildren(...fresh.childNodes);
            if (!fresh.dataset.refresh) return;
          }
        }
      } catch { /* The server is away: try again. */ }
    }
    setTimeout(renew, seconds * 1000);
  };
  setTimeout(renew, Number(main.dataset.refresh) * 1000);
})();
