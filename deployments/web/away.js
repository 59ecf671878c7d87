// When the page stops hearing of its devices: what goes up from then on is told to somebody else, or to nobody.

/** Calls onAway() when that happens, at the latest. */
export function whenAway(onAway) {
  for (const kind of ["blur", "pagehide", "dragstart", "beforeprint"]) window.addEventListener(kind, onAway);
  document.addEventListener("visibilitychange", () => document.hidden && onAway());
  // An open menu takes keys and buttons without taking the focus. Buttons and sticks of this page open none.
  window.addEventListener("contextmenu", (event) => event.defaultPrevented || onAway());
}
