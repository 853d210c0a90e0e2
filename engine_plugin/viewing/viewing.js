// Reports what a <video> element plays to the engine on this machine, in CMCD version 2's event
// mode. Usage:
//
//   <script src="http://127.0.0.1:6878/ace/cmcd/viewing.js"></script>
//   <script>swarmledgerViewing(document.querySelector("video"), {url: CMCD_URL})</script>
//
// CMCD_URL, token included, is what the engine's HTTP face answered when playback was asked for.
// Exact media times are reported at every change of state, so heartbeats need no guess.
"use strict";

function swarmledgerViewing(video, options) {
  const INTERVAL_MS = options.intervalMs || 4000;
  const QUEUE_MAX = 64;
  const BATCH_MAX = 32;
  const sid = options.sid || crypto.randomUUID();
  let sequenceNumber = 0;
  let state = "";
  let lastReportMs = 0;
  let lastPosition = video.currentTime;
  let lastPositionMs = performance.now();
  let isSending = false;
  let queue = [];

  // The page's monotonic clock: stepping the machine's clock changes nothing.
  const now = () => performance.now();

  function report(event, nextState, position, atMs) {
    state = nextState;
    lastReportMs = atMs;
    queue.push({
      v: 2, e: event, sta: nextState, sid: sid, sn: sequenceNumber++,
      ts: Math.round(performance.timeOrigin + atMs),
      pt: Math.round(position * 1000),
      pr: video.playbackRate,
    });
    if (queue.length > QUEUE_MAX) queue.shift();
    send();
  }

  // One body at a time, so that reports arrive in order; what failed is sent again.
  async function send() {
    if (isSending || queue.length === 0) return;
    isSending = true;
    const batch = queue.slice(0, BATCH_MAX);
    let isTaken = false;
    try {
      const answer = await fetch(options.url, {
        method: "POST", keepalive: true, credentials: "omit",
        headers: {"Content-Type": "text/plain"},
        body: batch.map(formatLine).join("\n"),
      });
      // Refused reports stay refused; only a full disk or a dead connection is worth a retry.
      isTaken = answer.status < 500;
    } catch (error) {
      isTaken = false;
    }
    isSending = false;
    if (isTaken) {
      queue = queue.filter((entry) => !batch.includes(entry));
      send();
    } else {
      setTimeout(send, 1000);
    }
  }

  function formatLine(entry) {
    return Object.entries(entry)
      .map(([key, value]) => key === "sid" ? `sid="${value}"` : `${key}=${value}`)
      .join(",");
  }

  function note() {
    lastPosition = video.currentTime;
    lastPositionMs = now();
  }

  function change(nextState) {
    note();
    if (nextState !== state) report("ps", nextState, lastPosition, lastPositionMs);
  }

  // When a seek is told, the element already stands at its target: where it came from follows from
  // the last position seen, and exactly from the ranges it says it played.
  function seek() {
    const atMs = now();
    if (state === "p") {
      let stopped = lastPosition + (atMs - lastPositionMs) / 1000 * video.playbackRate;
      for (let range = 0; range < video.played.length; range++) {
        const end = video.played.end(range);
        if (video.played.start(range) <= lastPosition && Math.abs(end - stopped) < 0.3) {
          stopped = end;
        }
      }
      report("t", "p", Math.max(stopped, lastPosition), atMs);
    }
    note();
    if (state !== "k") report("ps", "k", lastPosition, atMs);
  }

  function settle() {
    if (video.ended) change("e");
    else if (video.paused) change("a");
    else change(video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA ? "p" : "r");
  }

  video.addEventListener("play", () => { if (state !== "p") change("s"); });
  video.addEventListener("playing", () => change("p"));
  video.addEventListener("pause", () => { if (!video.ended && !video.seeking) change("a"); });
  video.addEventListener("seeking", seek);
  video.addEventListener("seeked", settle);
  video.addEventListener("waiting", () => { if (!video.seeking && !video.paused) change("r"); });
  video.addEventListener("ended", () => change("e"));
  video.addEventListener("error", () => change("f"));
  video.addEventListener("ratechange", () => {
    note();
    if (state === "p") report("pr", state, lastPosition, lastPositionMs);
  });
  video.addEventListener("timeupdate", () => {
    if (video.seeking) return;
    note();
    if (state === "p" && lastPositionMs - lastReportMs >= INTERVAL_MS) {
      report("t", state, lastPosition, lastPositionMs);
    }
  });
  addEventListener("pagehide", () => { if (state && !"eq".includes(state)) change("q"); });
  addEventListener("pageshow", (event) => { if (event.persisted) settle(); });
  if (!video.paused) settle();
  return {sid: sid, flush: send, isIdle: () => queue.length === 0 && !isSending};
}
