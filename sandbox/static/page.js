// Without this script the page shows and does the same: only loading it again is up to the reader.
"use strict";

// The address names the orders that are open, so that they stay open when the page is loaded again.
for (const order of document.querySelectorAll("details.order")) {
  order.addEventListener("toggle", () => {
    const url = new URL(location);
    const others = url.searchParams.getAll("open").filter((id) => id !== order.dataset.order);
    url.searchParams.delete("open");
    for (const id of order.open ? [...others, order.dataset.order] : others) url.searchParams.append("open", id);
    history.replaceState(null, "", url);
  });
}

// Tell that there is news, and let the reader decide when to look: nothing moves.
const news = document.getElementById("news");
news.firstElementChild.addEventListener("click", (event) => {
  event.preventDefault();
  location.reload();
});
const look = setInterval(async () => {
  if (document.hidden) return;
  try {
    const { latest } = await (await fetch("/_sandbox/latest")).json();
    if (latest !== document.body.dataset.latest) {
      news.hidden = false;
      clearInterval(look);
    }
  } catch {
    // The sandbox is stopped. It may come back.
  }
}, 2000);
