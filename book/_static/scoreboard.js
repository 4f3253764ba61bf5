// Fields above the cards of the scoreboard. Without this script every card is shown.
document.addEventListener("DOMContentLoaded", () => {
  for (const board of document.querySelectorAll(".scoreboard")) {
    const form = board.querySelector("form"), cards = [...board.querySelectorAll("article")];
    const output = form.querySelector("output"), field = (name) => form.querySelector(`[data-field="${name}"]`);
    function filter() {
      const words = field("words").value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const card of cards) {
        const text = card.textContent.toLowerCase();
        const fits = ["verdict", "origin", "chapter"].every((name) => !field(name).value || card.dataset[name] === field(name).value)
          && (!field("item").value || card.dataset.item.split("|").includes(field("item").value))
          && words.every((word) => text.includes(word));
        card.hidden = !fits;
        shown += fits;
      }
      output.textContent = `${shown} of ${cards.length} claims`;
    }
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }
});
