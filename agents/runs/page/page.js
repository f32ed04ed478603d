"use strict";
document.documentElement.classList.add("js");

const pictures = document.getElementById("pairs");
const cut = document.getElementById("cut");
if (cut && pictures) {
  const show = () => pictures.style.setProperty("--cut", `${cut.value}%`);
  cut.addEventListener("input", show);
  show();
}

const round = document.getElementById("round");
if (round) {
  const sheets = [...document.querySelectorAll(".sheet")];
  const name = document.getElementById("round-name");
  const show = () => {
    sheets.forEach((sheet, number) => { sheet.hidden = number !== Number(round.value); });
    name.value = `round ${sheets[round.value].dataset.round}`;
    round.setAttribute("aria-valuetext", name.value);
  };
  round.addEventListener("input", show);
  show();
}
