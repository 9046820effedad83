// The review of a page: what a reader decides, as a file that only they can send on. No library.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const asked = find("review").dataset;
  const REVOKE_MS = 60000;

  find("review-save").addEventListener("click", () => {
    const chosen = document.querySelector("#review input[name=decision]:checked");
    if (!chosen) {
      find("review-said").textContent = "Choose accept, reject or comment only first.";
      return;
    }
    const review = {
      schema: asked.schema, salm_dicom: asked.version, folder: asked.folder, digest: asked.digest,
      decision: chosen.value, comment: find("review-comment").value.trim(),
      reviewer: find("review-name").value.trim(), reviewed: new Date().toISOString(),
    };
    const text = JSON.stringify(review, null, 1) + "\n";
    const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    const link = document.createElement("a");
    link.href = address;
    link.download = asked.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), REVOKE_MS);
    find("review-said").textContent = `${asked.file} is in your downloads.`;
  });
})();
