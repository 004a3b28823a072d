# Writes batch.json: what limma's removeBatchEffect finds. Run in this folder: Rscript batch.R
library(limma)
set.seed(2)
batch <- sample(1:3, 30, replace = TRUE)
arm <- sample(0:1, 30, replace = TRUE)
x <- matrix(round(rnorm(120), 3), 30) + 6 + batch + arm
listed <- function(v) paste0("[", paste(format(as.vector(t(v)), digits = 17, trim = TRUE), collapse = ","), "]")
plain <- t(removeBatchEffect(t(x), batch = batch))
with_arm <- t(removeBatchEffect(t(x), batch = batch, design = model.matrix(~arm)))
one <- function(v) paste0("[", paste(v, collapse = ","), "]")
writeLines(paste0('{"batch":', one(batch), ',"arm":', one(arm), ',"x":', listed(x), ',"plain":', listed(plain), ',"with_arm":',
                  listed(with_arm), "}"), "batch.json")
