# Writes deseq2_r.json: what R's DESeq2 says of the counts in deseq2.json. Run: Rscript deseq2.R (Debian: r-bioc-deseq2 1.38)
suppressMessages({library(DESeq2); library(jsonlite)})
data <- fromJSON("deseq2.json")
obs <- data.frame(condition = factor(data$condition, levels = c("control", "case")), age = data$age, site = factor(data$site))
answer <- function(design) {
  dds <- DESeqDataSetFromMatrix(data$counts, obs, design)
  dds <- suppressMessages(DESeq(dds, minReplicatesForReplace = Inf, quiet = TRUE))
  found <- results(dds, contrast = c("condition", "case", "control"), cooksCutoff = FALSE, independentFiltering = FALSE)
  list(log_fc = signif(found$log2FoldChange, 9), p = signif(found$pvalue, 9), adj_p = signif(found$padj, 9))
}
out <- list(deseq2 = as.character(packageVersion("DESeq2")), condition = answer(~ condition), site = answer(~ site + condition),
  age = answer(~ age + site + condition))
write(toJSON(out, auto_unbox = TRUE, digits = NA, na = "null"), "deseq2_r.json")
