// The pages work without this. It tells open pages of changes, and adds the reader's own time to times.
"use strict";

const live = document.body.dataset.live;
const said = document.getElementById("said");
let source = null;
let stamp = null;
let loading = false;

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) time.title = at.toLocaleString();
  }
}

function tell(text) {
  said.textContent = text;
}

// Only the parts that are marked are exchanged: what somebody writes in a form stays as it is.
async function refresh() {
  if (loading) return;
  loading = true;
  try {
    const answer = await fetch(location.href, { headers: { "x-hoop-live": "1" }, credentials: "same-origin" });
    if (answer.status === 401) {
      stop();
      tell("You are signed out. Load the page again to sign in.");
      return;
    }
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-part]")) {
      const other = fresh.getElementById(part.id);
      if (other && other.innerHTML !== part.innerHTML && !part.contains(document.activeElement)) {
        part.replaceWith(document.adoptNode(other));
      }
    }
    document.title = fresh.title;
    localTimes(document);
    if (live === "list") {
      tell("The list has changed.");
    } else if (fresh.body.dataset.state !== document.body.dataset.state) {
      document.getElementById("changed").hidden = false;
      tell("This request has changed since you opened this page.");
    }
  } finally {
    loading = false;
  }
}

function start() {
  if (source || document.hidden) return;
  source = new EventSource(live === "list" ? "/live" : "/live?approval=" + encodeURIComponent(live));
  source.addEventListener("stamp", (event) => {
    if (stamp !== null && event.data !== stamp) refresh();
    stamp = event.data;
  });
}

// A browser has few connections to one host: only the page that is looked at holds one.
function stop() {
  if (source) source.close();
  source = null;
}

localTimes(document);
if (live) {
  start();
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  window.addEventListener("pagehide", stop);
}
