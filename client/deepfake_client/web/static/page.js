"use strict";
// Sends files one by one and shows what comes back. What comes back is made by the server, which escapes every name.
const form = document.getElementById("form");
const input = document.getElementById("file");
const drop = document.getElementById("drop");
const say = document.getElementById("status");
const results = document.getElementById("results");
const link = document.getElementById("link"); // null where links are not followed
const csrf = document.querySelector('meta[name="csrf"]').content;
const mostBytes = Number(form.dataset.maxMib) * 2 ** 20;
const AT_ONCE = 3;

async function post(action, file) {
  const body = new FormData();
  body.append("file", file, file.name || "pasted.png");
  if (document.getElementById("faces").checked) body.append("faces", "all");
  return fetch(`/ui/${action}`, { method: "POST", body, headers: { "X-CSRF": csrf } });
}

async function fetched(link) {
  const body = new FormData();
  body.append("link", link);
  const answer = await fetch("/ui/fetch", { method: "POST", body, headers: { "X-CSRF": csrf } });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  const name = decodeURIComponent(answer.headers.get("content-disposition").split("UTF-8''")[1]);
  return new File([await answer.blob()], name);
}

async function lookAtLink(link) {
  say.textContent = "Fetching the file…";
  try {
    await lookAtAll([await fetched(link)]);
  } catch (error) {
    const article = trouble(error.message);
    results.prepend(article);
    say.textContent = "Done: Not scored";
    article.querySelector(".verdict").focus();
  }
}

function element(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html;
  return holder.content;
}

function trouble(text) {
  const article = document.createElement("article");
  article.className = "result";
  const title = document.createElement("h2");
  title.className = "verdict none";
  title.tabIndex = -1;
  title.textContent = "Not scored";
  const reason = document.createElement("p");
  reason.setAttribute("role", "alert");
  reason.textContent = text;
  article.append(title, reason);
  return article;
}

async function look(file) {
  if (file.size > mostBytes) {
    return trouble(`${file.name}: ${Math.ceil(file.size / 2 ** 20)} MiB are over the limit of ${form.dataset.maxMib} MiB`);
  }
  try {
    const answer = await post("score", file);
    const type = answer.headers.get("content-type") || "";
    if (type.startsWith("application/problem")) return trouble(`${file.name}: ${(await answer.json()).detail}`);
    const article = element(await answer.text()).querySelector("article");
    if (answer.ok) preview(article, file);
    return article;
  } catch (error) {
    return trouble(`${file.name}: this page's program does not answer; is it still running?`);
  }
}

function preview(article, file) {
  const figure = article.querySelector(".preview");
  if (!figure) return;
  const movie = article.dataset.movie === "yes";
  const shown = document.createElement(movie ? "video" : "img");
  shown.src = URL.createObjectURL(file);
  if (movie) shown.controls = true;
  else shown.alt = "The picture";
  shown.onerror = () => { figure.textContent = "Your browser does not show files of this kind."; };
  shown.onload = () => boxes(figure, shown, JSON.parse(article.dataset.boxes));
  figure.append(shown);
  for (const button of article.querySelectorAll("button[data-action]")) {
    button.onclick = () => more(article, file, button);
  }
}

function boxes(figure, image, faces) {
  for (const [place, [x1, y1, x2, y2, verdict]] of faces.entries()) {
    const box = document.createElement("div");
    box.className = `box ${verdict}`;
    box.style.left = `${(100 * x1) / image.naturalWidth}%`;
    box.style.top = `${(100 * y1) / image.naturalHeight}%`;
    box.style.width = `${(100 * (x2 - x1)) / image.naturalWidth}%`;
    box.style.height = `${(100 * (y2 - y1)) / image.naturalHeight}%`;
    const label = document.createElement("span");
    label.textContent = faces.length > 1 ? `${place + 1}: ${verdict}` : verdict; // as in the table of faces
    box.append(label);
    figure.append(box);
  }
}

async function more(article, file, button) {
  const place = article.querySelector(".more");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true"); // not disabled, which would take the keyboard's place away
  try {
    const answer = await post(button.dataset.action, file);
    if (button.dataset.action === "evidence" && answer.ok) {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = "evidence.zip";
      link.click();
    } else if ((answer.headers.get("content-type") || "").startsWith("text/html")) {
      place.append(element(await answer.text()));
    } else {
      place.append(trouble((await answer.json()).detail));
    }
  } catch (error) {
    place.append(trouble("this page's program does not answer; is it still running?"));
  }
  button.setAttribute("aria-disabled", "false");
}

async function lookAtAll(files) {
  const waiting = [...files];
  const total = waiting.length;
  let done = 0;
  if (!total) return;
  say.textContent = `Looking at ${total} ${total === 1 ? "file" : "files"}…`;
  async function worker() {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      const article = await look(file);
      results.prepend(article);
      done += 1;
      say.textContent = done < total ? `${done} of ${total} done…` : `Done: ${article.querySelector(".verdict").textContent}`;
      if (total === 1) article.querySelector(".verdict").focus();
    }
  }
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, total) }, worker));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (link && link.value) lookAtLink(link.value);
  lookAtAll(input.files);
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  lookAtAll(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const text = event.clipboardData.getData("text/plain").trim();
  lookAtAll(event.clipboardData.files);
  if (link && event.target !== link && /^https?:/.test(text)) {
    link.value = text;
    lookAtLink(text);
  }
});
