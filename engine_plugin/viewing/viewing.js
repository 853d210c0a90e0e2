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
  const PROBES = 3;
  const INTERVAL_MS = options.intervalMs || 4000;
  const SETTLING_MS = 120;
  const STARTING_S = 0.5;
  const MOVED_S = 0.1;
  const QUEUE_MAX = 64;
  const BATCH_MAX = 32;
  const sid = options.sid || crypto.randomUUID();
  let sequenceNumber = PROBES;
  let state = "";
  let lastReportMs = 0;
  let lastPosition = video.currentTime;
  let lastPositionMs = performance.now();
  let isSending = false;
  let queue = [];
  let probes = 0;
  let stop = null;
  let start = null;

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
    // The first bodies say only when they were sent: how long a report is on its way is known
    // before there is one that counts.
    if (probes < PROBES && !isSending) {
      probes++;
      queue.unshift({
        v: 2, e: "t", sid: sid, sn: probes - 1, ts: Math.round(performance.timeOrigin + now()),
      });
    }
    if (isSending || queue.length === 0) return;
    isSending = true;
    const batch = queue.slice(0, probes < PROBES || queue[0].sta === undefined ? 1 : BATCH_MAX);
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
    finishStart();
    finishStop(video.currentTime);
    const stoodAt = lastPosition;
    note();
    if (nextState === state) return;
    if (nextState === "s") lastPosition = stoodAt;
    report("ps", nextState, lastPosition, lastPositionMs);
  }

  // An element says "playing" a little before or after its picture moves: playing is dated to where
  // and when it did, once it has come far enough to tell.
  function beginStart() {
    finishStop(video.currentTime);
    if (state === "p" || start !== null) return;
    const stoodAt = Math.abs(video.currentTime - lastPosition) < STARTING_S
      ? lastPosition : video.currentTime;
    start = {stoodAt: stoodAt, saidMs: now()};
    start.timer = setInterval(lookAtStart, 50);
    lookAtStart();
  }

  function lookAtStart() {
    if (start === null) return;
    const ahead = video.currentTime - start.stoodAt;
    if (ahead >= MOVED_S || now() - start.saidMs > STARTING_S * 2000) finishStart();
  }

  function finishStart() {
    if (start === null) return;
    const {stoodAt, timer} = start;
    start = null;
    clearInterval(timer);
    note();
    const ahead = Math.max(lastPosition - stoodAt, 0);
    const atMs = Math.max(lastPositionMs - ahead * 1000 / video.playbackRate, lastReportMs);
    report("ps", "p", stoodAt, atMs);
  }

  // A start that a seek cuts short: where it came to is only known from the ranges.
  function abandonStart() {
    if (start === null) return;
    const {stoodAt, saidMs, timer} = start;
    start = null;
    clearInterval(timer);
    [lastPosition, lastPositionMs] = [stoodAt, Math.max(saidMs, lastReportMs)];
    report("ps", "p", lastPosition, lastPositionMs);
  }

  // An element that says "pause" comes to rest a little later and farther on: it is waited for.
  function beginStop() {
    finishStart();
    finishStop(video.currentTime);
    if (state === "a") return;
    note();
    stop = {position: lastPosition, atMs: lastPositionMs};
    stop.timer = setTimeout(() => finishStop(video.currentTime), SETTLING_MS);
  }

  function finishStop(restedAt) {
    if (stop === null) return;
    const {position, atMs, timer} = stop;
    stop = null;
    clearTimeout(timer);
    const ahead = Math.max(restedAt - position, 0);
    const isRest = state === "p" && ahead * 1000 <= SETTLING_MS * video.playbackRate;
    lastPosition = isRest ? position + ahead : position;
    lastPositionMs = isRest ? atMs + ahead * 1000 / video.playbackRate : atMs;
    report("ps", "a", lastPosition, lastPositionMs);
  }

  // When a seek is told, the element already stands at its target: where it came from follows from
  // the last position seen, and exactly from the ranges it says it played.
  function seek() {
    abandonStart();
    if (stop !== null) finishStop(playedEnd(stop.position));
    const atMs = now();
    if (state === "p") {
      const stopped =
        playedEnd(lastPosition + (atMs - lastPositionMs) / 1000 * video.playbackRate);
      report("t", "p", Math.max(stopped, lastPosition), atMs);
    }
    note();
    if (state !== "k") report("ps", "k", lastPosition, atMs);
  }

  function playedEnd(expected) {
    for (let range = 0; range < video.played.length; range++) {
      const end = video.played.end(range);
      if (video.played.start(range) <= lastPosition && Math.abs(end - expected) < 0.3) return end;
    }
    return expected;
  }

  function settle() {
    if (video.ended) change("e");
    else if (video.paused) change("a");
    else if (video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA) beginStart();
    else change("r");
  }

  video.addEventListener("emptied", note);
  video.addEventListener("play", () => { if (state !== "p") change("s"); });
  video.addEventListener("playing", beginStart);
  video.addEventListener("pause", () => { if (!video.ended && !video.seeking) beginStop(); });
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
    lookAtStart();
    if (state !== "p") return;
    note();
    if (lastPositionMs - lastReportMs >= INTERVAL_MS) {
      report("t", state, lastPosition, lastPositionMs);
    }
  });
  addEventListener("pagehide", () => { if (state && !"eq".includes(state)) change("q"); });
  addEventListener("pageshow", (event) => { if (event.persisted) settle(); });
  send();
  if (!video.paused) settle();
  return {sid: sid, flush: send, isIdle: () => stop === null && start === null && queue.length === 0 && !isSending};
}
