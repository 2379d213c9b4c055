(function () {
  "use strict";
  var page = document.body;
  page.classList.add("scripted");

  // series: a box unticked hides all that is of the class it names
  document.querySelectorAll("input[data-series]").forEach(function (box) {
    box.disabled = false;
    box.addEventListener("change", function () {
      var name = box.getAttribute("data-series");
      document.querySelectorAll("." + name).forEach(function (part) {
        part.classList.toggle("gone", !box.checked);
      });
      document.querySelectorAll("input[data-series='" + name + "']").forEach(function (other) {
        other.checked = box.checked;
      });
      document.querySelectorAll("th[colspan]").forEach(widen);
    });
  });

  // a heading over several columns is as wide as those that are left
  function widen(head) {
    var from = 1, own = head.previousElementSibling;
    for (; own; own = own.previousElementSibling) {
      if (own.hasAttribute("data-span")) { from += Number(own.getAttribute("data-span")); }
    }
    if (!head.hasAttribute("data-span")) { return; }
    var row = head.parentElement.nextElementSibling, left = 0, many = Number(head.getAttribute("data-span"));
    for (var k = from; row && k < from + many; k += 1) {
      if (row.children[k] && !row.children[k].classList.contains("gone")) { left += 1; }
    }
    head.hidden = left === 0;
    head.colSpan = Math.max(1, left);
  }

  // tables: a click on a heading sorts, a second one turns round, a third restores
  var scales = { k: 1e3, M: 1e6, G: 1e9, T: 1e12 };
  function figure(text) {
    var found = /^[<>≥≤~]?\s*([+\-−]?)([\d\u202f\u00a0 ,]*\.?\d+(?:e[+-]?\d+)?)[\u202f\u00a0 ]?([kMGT](?![a-z]))?/.exec(text.trim());
    if (!found) { return NaN; }
    var size = Number(found[2].replace(/[\u202f\u00a0 ,]/g, ""));
    return (found[1] === "−" || found[1] === "-" ? -1 : 1) * size * (scales[found[3]] || 1);
  }
  function compare(a, b) {
    if (isNaN(a.figure) && isNaN(b.figure)) { return a.text < b.text ? -1 : a.text > b.text ? 1 : 0; }
    if (isNaN(a.figure)) { return 1; }
    if (isNaN(b.figure)) { return -1; }
    return a.figure - b.figure;
  }
  document.querySelectorAll("table[data-sorts]").forEach(function (table) {
    var body = table.tBodies[0], rows = null, heads = table.tHead.rows[table.tHead.rows.length - 1].cells;
    function flat() {
      if (rows) { return; }
      rows = Array.prototype.slice.call(body.rows);
      var head = null, left = 0;
      rows.forEach(function (row) { // a name over several rows stands before each of them
        var own = row.querySelector("th");
        if (own) { left = own.rowSpan; own.removeAttribute("rowspan"); head = own; }
        else if (left > 0) { row.insertBefore(head.cloneNode(true), row.firstChild); }
        left -= 1;
      });
    }
    function sort(place) {
      flat();
      var head = heads[place], now = head.getAttribute("aria-sort");
      var next = now === "ascending" ? "descending" : now === "descending" ? "" : "ascending";
      Array.prototype.forEach.call(heads, function (other) { other.removeAttribute("aria-sort"); });
      var order = rows.map(function (row, at) {
        var cell = row.cells[place], text = cell ? cell.textContent : "";
        return { row: row, at: at, text: text.trim(), figure: place ? figure(text) : NaN };
      });
      if (next) {
        head.setAttribute("aria-sort", next);
        var turn = next === "ascending" ? 1 : -1;
        order.sort(function (a, b) {
          var missing = Number(place && isNaN(a.figure)) - Number(place && isNaN(b.figure));
          return missing || turn * compare(a, b) || a.at - b.at;
        });
      }
      table.classList.toggle("sorted", Boolean(next));
      order.forEach(function (one) { body.appendChild(one.row); });
    }
    Array.prototype.forEach.call(heads, function (head, place) {
      head.tabIndex = 0;
      head.title = "sort";
      head.addEventListener("click", function () { sort(place); });
      head.addEventListener("keydown", function (event) {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(place); }
      });
    });
  });
}());
