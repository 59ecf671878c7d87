// What a stick means, be it a gamepad's or one under a thumb: its place from -1 to 1, right and down positive.

// Eight directions of equal width.
const DIAGONAL_FROM = Math.sin(Math.PI / 8);

/** The keys that walk where a stick points; none within the dead zone. */
export function walkKeys(x, y, deadZone) {
  const length = Math.hypot(x, y);
  if (length < deadZone) return [];
  const least = DIAGONAL_FROM * length;
  const pointed = { w: -y > least, s: y > least, a: -x > least, d: x > least };
  return Object.keys(pointed).filter((key) => pointed[key]);
}
