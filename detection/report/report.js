'use strict';
// The order of the page.
(() => {
  const r = page.report;
  r.metricTiles();
  r.compareSection();
  r.thresholdSection();
  r.gallerySection();
  r.classTable();
  r.curveSection();
  r.confusionSection();
  r.errorSection();
  r.diagnosisSection();
  r.binSection();
  r.boxSection();
  r.calibrationSection();
  r.labelSection();
  r.sliceSection();
  r.imageTable();
  r.driftSection();
  r.trainingSection();
  page.layout(page.data.title, r.header(), r.sections);
})();
