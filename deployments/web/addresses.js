// Where the server is: the page may be served under any path prefix, which the server need not know.

/** The address below which all of the server's are, such as http://host/ or https://hub/user/me/proxy/8000/. */
export const BASE = new URL("../", import.meta.url);

/** The address of a path below the server's base, such as "v1/status". */
export const addressOf = (path) => new URL(path, BASE).href;
