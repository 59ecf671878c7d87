// What the browser keeps for this page. One that keeps nothing, as in a frame of another site, refuses even to be asked.

export function read(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

/** Keeps a text until the page is left at least, or with null forgets it. */
export function keep(storage, name, text) {
  try {
    if (text === null) window[storage].removeItem(name);
    else window[storage].setItem(name, text);
  } catch {
    // It holds until the page is left.
  }
}
