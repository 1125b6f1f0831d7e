// Lists the files that a pattern means and fetches them: node fetch.mjs CREDENTIALS PATTERN FOLDER
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { basename, join } from "node:path";

if (process.argv.length !== 5) throw new Error("usage: node fetch.mjs CREDENTIALS PATTERN FOLDER");
const [keys, pattern, folder] = process.argv.slice(2);
const read = (name) => readFileSync(join(keys, name), "utf8");
const [servername, host, port] = read("server").split(" ");
const options = { host, port, servername, ca: read("group.crt"), cert: read("member.crt"), key: read("member.key") };

const ask = (path) =>
  new Promise((done, failed) => {
    const asked = request({ ...options, path, headers: { "Want-Repr-Digest": "sha-256=1" } }, async (answer) => {
      const pieces = await answer.toArray();
      answer.statusCode === 200 ? done([Buffer.concat(pieces), answer.headers]) : failed(new Error(Buffer.concat(pieces)));
    });
    asked.on("error", failed).end();
  });

const [found] = await ask("/v1/find?pattern=" + encodeURIComponent(pattern));
for (const file of JSON.parse(found).files) {
  console.log(`${file.size} ${file.place}`.replace(/\p{Cc}/gu, "?"));
  const [data, headers] = await ask("/v1/blob/" + file.cid);
  const hash = createHash("sha256").update(data).digest();
  if (headers["repr-digest"] !== `sha-256=:${hash.toString("base64")}:`) throw new Error("wrong bytes");
  writeFileSync(join(folder, basename(file.path)), data, { flag: "wx" });
}
