# Writes limma.json: what R's limma says of small tables, for tests/tl/test_de.py. Run: Rscript limma.R (Debian: r-bioc-limma 3.54)
suppressMessages(library(limma))
set.seed(1)
number <- function(x) ifelse(is.na(x), "null", ifelse(is.infinite(x), ifelse(x > 0, "1e999", "-1e999"), sprintf("%.17g", x)))
vector <- function(x) paste0("[", paste(number(as.numeric(x)), collapse = ", "), "]")
rows <- function(x) paste0("[", paste(apply(x, 1, vector), collapse = ",\n"), "]")
words <- function(x) paste0("[", paste0('"', x, '"', collapse = ", "), "]")
object <- function(l) paste0("{", paste(paste0('"', names(l), '": ', unlist(l)), collapse = ",\n"), "}")

n <- 24; genes <- 40
obs <- data.frame(condition = rep(c("control", "case"), n / 2), age = round(runif(n, 30, 80), 1),
                  site = rep(c("a", "b", "c"), c(11, 4, 9)))
obs$condition[obs$site == "b"] <- "control"  # one site without cases
x <- matrix(rnorm(genes * n, 8, 1), genes) * sqrt(1 / rgamma(genes, 3, 3))
x[1:8, obs$condition == "case"] <- x[1:8, obs$condition == "case"] + 2
x <- x + outer(rnorm(genes), as.numeric(factor(obs$site)))
x <- x + 0:(genes - 1) / 4  # means that differ, for the trend
holes <- x
holes[sample(length(x), 150)] <- NA
holes[3, obs$site == "a"] <- NA       # a site that did not measure it
holes[5, obs$condition == "case"] <- NA  # no case has it
holes[6, 4:24] <- NA  # fewer values than terms
obs$condition <- factor(obs$condition, levels = c("control", "case"))
design <- model.matrix(~ condition + age + site, obs)
answer <- function(values, trend, robust = FALSE) {
  fit <- eBayes(suppressWarnings(lmFit(values, design)), trend = trend)
  object(list(log_fc = vector(fit$coefficients[, 2]), t = vector(fit$t[, 2]), p = vector(fit$p.value[, 2]),
    log10_p = vector((pt(abs(fit$t[, 2]), fit$df.total, lower.tail = FALSE, log.p = TRUE) + log(2)) / log(10)),
    sigma = vector(fit$sigma), df = vector(fit$df.residual), s2_prior = vector(fit$s2.prior), df_prior = vector(fit$df.prior),
    df_total = vector(fit$df.total), adj_p = vector(p.adjust(fit$p.value[, 2], "BH"))))
}
contrasted <- function(values) {
  groups <- factor(rep(c("x", "y", "z"), n / 3))
  d <- model.matrix(~ 0 + groups)
  colnames(d) <- levels(groups)
  fit <- eBayes(suppressWarnings(contrasts.fit(lmFit(values, d), makeContrasts(x - y, levels = d))))
  object(list(groups = words(groups), log_fc = vector(fit$coefficients[, 1]), t = vector(fit$t[, 1]), p = vector(fit$p.value[, 1])))
}
counts <- matrix(rnbinom(genes * n, mu = rep(exp(seq(0, 7, length.out = genes)), n) * rep(runif(n, 0.5, 2), each = genes), size = 5), genes)
counts[1:8, obs$condition == "case"] <- counts[1:8, obs$condition == "case"] * 4
v <- voom(counts, design, span = 0.5)
vfit <- eBayes(lmFit(v, design))
voomed <- object(list(log_fc = vector(vfit$coefficients[, 2]), t = vector(vfit$t[, 2]), p = vector(vfit$p.value[, 2]),
                      weights = rows(v$weights), log_cpm = rows(v$E)))
squeezed <- list()
for (s in 1:3) {
  var <- rchisq(30, 4) / 4 * if (s == 2) 1 else 1 / rgamma(30, 2, 2)
  df <- if (s == 3) sample(c(0, 2:6), 30, TRUE) else rep(4, 30)
  ok <- df > 0
  sq <- squeezeVar(ifelse(ok, var, 0), df)
  squeezed[[s]] <- object(list(var = vector(var), df = vector(df), post = vector(sq$var.post), prior = vector(sq$var.prior), df_prior = vector(sq$df.prior)))
}
cat(object(list(limma = paste0('"', packageVersion("limma"), '"'), condition = words(obs$condition), age = vector(obs$age), site = words(obs$site),
  x = rows(x), holes = rows(holes), plain = answer(x, FALSE), trend = answer(x, TRUE), missing = answer(holes, FALSE),
  missing_trend = answer(holes, TRUE), contrast = contrasted(x), counts = rows(counts), voom = voomed,
  squeezed = paste0("[", paste(squeezed, collapse = ",\n"), "]"))), file = "limma.json")
